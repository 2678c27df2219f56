"""The page says what was found, the verdict first, and is written whole or not at all."""

from __future__ import annotations

import re
import stat
import unicodedata
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest
from output_trees import OutputTree, sources
from pyroaring import BitMap64
from report_pages import hostile_tree

from beam_pipeline.cli import main
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.tools.reconcile.compare import ReconcileReport, compare
from beam_pipeline.tools.reconcile.coverage import Coverage
from beam_pipeline.tools.report.charts import nice_ceiling
from beam_pipeline.tools.report.gather import Landed, gather
from beam_pipeline.tools.report.page import ReportInput, render_page, style_sheet
from beam_pipeline.tools.report.verdict import Tone, verdict_of

MADE = datetime(2026, 11, 24, 9, tzinfo=timezone.utc)
ORDERS = TopicPartition("orders", 0)


class Texts(HTMLParser):
    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def compared(end: int, rows: BitMap64, letters: BitMap64) -> ReconcileReport:
    parquet, dead = Coverage(), Coverage()
    parquet.offsets[ORDERS], dead.offsets[ORDERS] = rows, letters
    parquet.records[ORDERS], dead.records[ORDERS] = len(rows), len(letters)
    reconciliation = compare({ORDERS: (0, end)}, parquet, dead)
    return ReconcileReport(reconciliation, [], [], 1, 1, "read_uncommitted")


def test_the_verdict_with_a_broker() -> None:
    landed = Landed(row_count=8, letter_count=2)
    complete = verdict_of(landed, compared(10, BitMap64(range(8)), BitMap64([8, 9])))
    assert (complete.tone, complete.title) == (Tone.GOOD, "Complete")
    behind = verdict_of(landed, compared(12, BitMap64(range(8)), BitMap64([8, 9])))
    assert (behind.tone, behind.title) == (Tone.WAITING, "Not complete yet")
    assert "2 in no file" in behind.reason
    lost = verdict_of(landed, compared(10, BitMap64(range(1, 8)), BitMap64([8, 9])))
    assert (lost.tone, lost.title) == (Tone.BAD, "Not complete")
    twice = verdict_of(landed, compared(10, BitMap64(range(9)), BitMap64([8, 9])))
    assert (twice.tone, "1 in more than one place" in twice.reason) == (Tone.BAD, True)
    landed.add_problem(Path("a.parquet"), "is damaged")
    damaged = verdict_of(landed, compared(10, BitMap64(range(8)), BitMap64([8, 9])))
    assert (damaged.tone, "1 file unreadable, or different from the footer" in damaged.reason) == (
        Tone.BAD,
        True,
    )
    assert [one.holds for one in (complete, behind, lost, twice, damaged)] == [True] + [False] * 4


def test_records_that_expired_or_were_rewritten_are_said_so() -> None:
    partition = TopicPartition("orders", 0)
    coverage = Coverage({partition: BitMap64([0, 1, *range(5, 10)])})
    comparison = compare({partition: (5, 10)}, coverage, Coverage())
    lost = verdict_of(Landed(), ReconcileReport(comparison, [], [], 1, 0, "read_uncommitted"))
    assert lost.tone is Tone.BAD
    assert "3 expired unread, at most" in lost.reason
    rewritten = {partition: BitMap64([7])}
    comparison = compare({partition: (0, 10)}, coverage, Coverage(), rewritten=rewritten)
    other = verdict_of(Landed(), ReconcileReport(comparison, [], [], 1, 0, "read_uncommitted"))
    assert other.tone is Tone.BAD
    assert "1 with another record in the log" in other.reason


def test_without_a_broker_nothing_is_claimed() -> None:
    verdict = verdict_of(Landed(row_count=8, letter_count=2), None)
    assert (verdict.tone, verdict.holds) == (Tone.OPEN, True)
    assert "--kafka_bootstrap_servers" in verdict.reason
    doubled = Landed(row_count=8)
    doubled.coverage.doubled[ORDERS] = BitMap64([3])
    assert verdict_of(doubled, None).tone is Tone.BAD


def test_the_page_of_a_tree_with_a_broker(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path)
    paths = [tree.parquet(sources("orders", 0, range(1_500))), tree.letters([("orders", 0, 1_500)])]
    report = compared(1_503, BitMap64(range(1_500)), BitMap64([1_500]))
    given = ReportInput(gather(paths), report, MADE, ["orders"], [("Kafka", "broker:9092")])
    found = Texts(render_page(given))
    words = " ".join(found.text.split())
    assert words.index("Not complete yet") < words.index("Records landed 1,501")
    assert "Lag 2 records in Kafka and in no file" in words
    assert "orders/0 0 \N{EN DASH} 1,502 1,503 1,500 1 0 2" in words
    assert "orders/0 : in no file: 2 offsets: 1,501 \N{EN DASH} 1,502" in words
    assert "2026-11-23 12:00:00 \N{EN DASH} 12:00:10 1,500" in words
    assert "kafka_offset int64 0% 0 1499" in words
    assert "script" not in found.tags


def test_an_empty_tree_has_a_page() -> None:
    words = Texts(render_page(ReportInput(Landed(), None, MADE, []))).text
    assert "No rows yet." in words
    assert "No Parquet files, so no columns." in words


def test_many_topics_columns_and_partitions_are_cut() -> None:
    landed = Landed()
    for number in range(1_000):
        landed.rows.add(number, f"topic{number}", 1)
        landed.topics[f"topic{number}"] = landed.rows.names()
        landed.add_problem(Path(f"{number}.parquet"), "is damaged")
        landed.coverage.offsets[TopicPartition("a", number)] = BitMap64([1])
    page = render_page(ReportInput(landed, None, MADE, sorted(landed.topics)))
    assert len(page) < 400_000
    assert "and 980 more" in Texts(page).text


def test_hostile_text_is_only_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = hostile_tree(tmp_path)
    report = tmp_path / "new" / "report.html"
    words = [
        "report",
        f"--output_dir={tree.output_dir}",
        f"--dead_letter_dir={tree.dead_letter_dir}",
        f"--report_file={report}",
    ]
    assert main(words) == 1
    assert "Something is wrong in the files. 1 file can't be read." in capsys.readouterr().out
    markup = report.read_text(encoding="utf-8")
    found = Texts(markup.encode())
    assert found.tags.count("style") == 1
    assert not {"script", "img", "iframe", "a", "form"} & set(found.tags)
    assert "<script>window.pwned = 1</script>" in found.text
    assert "\\x1b[2J\\x00\\u202egnp.exe" in found.text
    strange = {
        character
        for character in markup
        if unicodedata.category(character)[0] == "C" and character != "\n"
    }
    assert strange == set()
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]


def test_a_report_that_can_not_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = OutputTree(tmp_path / "tree")
    words = [
        "report",
        f"--output_dir={tree.output_dir}",
        f"--dead_letter_dir={tree.dead_letter_dir}",
    ]
    assert main([*words, f"--report_file={tmp_path}"]) == 2
    assert f"--report_file={tmp_path} is a directory" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*words, f"--report_file={tmp_path / 'file' / 'report.html'}"]) == 1
    assert "report.html can't be written: " in capsys.readouterr().err
    assert main(["report", f"--output_dir={tmp_path / 'none'}"]) == 2


@pytest.mark.parametrize("value", [1, 2, 3, 9, 10, 11, 99, 101, 386, 999, 1_000, 123_456_789])
def test_axes_end_at_round_numbers(value: int) -> None:
    top = nice_ceiling(value)
    assert value <= top <= max(2, 2.5 * value)
    assert top % 2 == 0
    assert len(str(top).rstrip("0")) <= 2


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough(scheme: int) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for what charts are made of."""
    block = re.findall(r":root \{(.*?)\}", style_sheet(), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for text in ("ink", "soft", "link", "bad"):
        for ground in ("page", "card"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for tone in ("good", "waiting", "bad", "open"):
        assert contrast(colours[tone], colours[f"{tone}-bg"]) >= 4.5, tone
        assert contrast(colours["ink"], colours[f"{tone}-bg"]) >= 4.5, tone
    for series in range(6):
        assert contrast(colours[f"s{series}"], colours["card"]) >= 3, series
        assert contrast(colours[f"s{series}"], colours["track"]) >= 3, series
