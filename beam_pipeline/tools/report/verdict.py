"""The first thing a report says: whether every record is in exactly one place. Pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from beam_pipeline.tools.reconcile.compare import ReconcileReport
from beam_pipeline.tools.report.gather import Landed
from beam_pipeline.tools.report.units import plural


class Tone(Enum):
    """How good the news is; the value is the style's class."""

    GOOD = "good"
    WAITING = "waiting"
    BAD = "bad"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A word or two, then what it rests on."""

    tone: Tone
    title: str
    told: str

    @property
    def holds(self) -> bool:
        """Whether nothing was found wrong."""
        return self.tone in (Tone.GOOD, Tone.OPEN)


def verdict_of(landed: Landed, report: ReconcileReport | None) -> Verdict:
    """What the files and, where it was asked, the log say."""
    if report is None:
        return _without_broker(landed)
    found = report.reconciliation
    unreadable = max(landed.unreadable, len(report.problems))
    if report.is_clean and not unreadable:
        return Verdict(
            Tone.GOOD,
            "Complete",
            f"{plural(found.records, 'record')} in Kafka, each in exactly one place: a row or a "
            "dead letter. Counted from the rows and lines themselves.",
        )
    wrong = {
        "in no file": found.missing,
        "in more than one place": found.doubled,
        "in files but beyond the log's end": found.beyond_end,
    }
    told = [f"{count:,} {where}" for where, count in wrong.items() if count]
    sentence = f"Of {plural(found.records, 'record')} in Kafka: {', '.join(told)}." if told else ""
    if unreadable:
        sentence += f" {plural(unreadable, 'file')} can't be counted on."
    if not (found.doubled or found.beyond_end or unreadable) and all(
        one.missing.max() == one.high - 1 for one in found.partitions if one.missing
    ):
        return Verdict(
            Tone.WAITING,
            "Not complete yet",
            f"{sentence} The newest records are among them: a pipeline at work writes a record "
            "when its window closes.",
        )
    return Verdict(Tone.BAD, "Not complete", sentence.strip())


def _without_broker(landed: Landed) -> Verdict:
    records = landed.row_count + landed.letter_count
    if landed.unreadable or landed.doubled:
        told = []
        if landed.doubled:
            told.append(f"{plural(landed.doubled, 'offset')} in more than one place.")
        if landed.unreadable:
            told.append(f"{plural(landed.unreadable, 'file')} can't be read.")
        return Verdict(Tone.BAD, "Something is wrong in the files", " ".join(told))
    return Verdict(
        Tone.OPEN,
        "Not checked against Kafka",
        f"{plural(records, 'record')} in the files, by their footers none twice. Whether any is "
        "missing only the topic can tell: give --kafka_bootstrap_servers.",
    )
