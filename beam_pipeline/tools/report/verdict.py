"""The verdict of a report: whether every record is in exactly one place. Pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from beam_pipeline.terminal import plural
from beam_pipeline.tools.reconcile.compare import ReconcileReport
from beam_pipeline.tools.report.gather import Landed


class Tone(Enum):
    """The kind of verdict; the value is its style class."""

    GOOD = "good"
    WAITING = "waiting"
    BAD = "bad"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict: a title, and a sentence with the reasons."""

    tone: Tone
    title: str
    reason: str

    @property
    def holds(self) -> bool:
        """Whether nothing was found wrong."""
        return self.tone in (Tone.GOOD, Tone.OPEN)


def verdict_of(landed: Landed, report: ReconcileReport | None) -> Verdict:
    """Return the verdict from the files and, if there is one, the comparison with the log."""
    if report is None:
        return _without_broker(landed)
    comparison = report.reconciliation
    unreadable = max(landed.unreadable, len(report.problems))
    if report.is_clean and not unreadable:
        return Verdict(
            Tone.GOOD,
            "Complete",
            f"{plural(comparison.records, 'record')} in Kafka, each in exactly one place: a row or "
            "a dead letter. Counted from the rows and lines themselves.",
        )
    wrong = {
        "in no file": comparison.missing,
        "in more than one place": comparison.doubled,
        "in files but beyond the log's end": comparison.beyond_end,
        "with another record in the log (it was rewritten)": comparison.rewritten,
        "expired unread, at most": comparison.expired_unread,
    }
    faults = ", ".join(f"{count:,} {where}" for where, count in wrong.items() if count)
    sentence = f"Of {plural(comparison.records, 'record')} in Kafka: {faults}." if faults else ""
    if unreadable:
        sentence += f" {plural(unreadable, 'file')} unreadable, or different from the footer."
    only_missing = not (
        comparison.doubled
        or comparison.beyond_end
        or comparison.rewritten
        or comparison.expired_unread
        or unreadable
    )
    if only_missing and all(
        partition.missing.max() == partition.high - 1
        for partition in comparison.partitions
        if partition.missing
    ):
        return Verdict(
            Tone.WAITING,
            "Not complete yet",
            f"{sentence} The newest records are among them: a running pipeline writes a record "
            "when its window closes.",
        )
    return Verdict(Tone.BAD, "Not complete", sentence.strip())


def _without_broker(landed: Landed) -> Verdict:
    records = landed.row_count + landed.letter_count
    if landed.unreadable or landed.doubled:
        faults = []
        if landed.doubled:
            faults.append(f"{plural(landed.doubled, 'offset')} in more than one place.")
        if landed.unreadable:
            faults.append(f"{plural(landed.unreadable, 'file')} can't be read.")
        return Verdict(Tone.BAD, "Something is wrong in the files", " ".join(faults))
    return Verdict(
        Tone.OPEN,
        "Not checked against Kafka",
        f"{plural(records, 'record')} in the files, none twice by their footers. To check for "
        "missing records, give --kafka_bootstrap_servers.",
    )
