"""The report in a real browser, and with a real broker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, Page
from confluent_kafka import Producer
from output_trees import NOON, OutputTree, sources
from report_pages import hostile_tree

from beam_pipeline.cli import main
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.tools.reconcile.compare import ReconcileReport, compare
from beam_pipeline.tools.reconcile.coverage import Coverage
from beam_pipeline.tools.report.gather import gather
from beam_pipeline.tools.report.page import ReportInput, render_page

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on PATH; Debian: apt install chromium"
)


@pytest.fixture
def browser() -> Iterator[Page]:
    with Page() as page:
        yield page


def report_of(tree: OutputTree, *flags: str) -> tuple[int, Path]:
    report = tree.root / "report.html"
    code = main(
        [
            "report",
            f"--output_dir={tree.output_dir}",
            f"--dead_letter_dir={tree.dead_letter_dir}",
            f"--report_file={report}",
            *flags,
        ]
    )
    return code, report


@needs_chromium
@pytest.mark.parametrize("width", [1000, 1440])
def test_long_delays_stay_within_their_card(tmp_path: Path, browser: Page, width: int) -> None:
    tree = OutputTree(tmp_path)
    for number, seconds in enumerate((38.4 * 60, 39.5 * 60, 58.9 * 60, 59.9 * 60)):
        path = tree.parquet(sources("orders", 0, range(number, number + 1)))
        os.utime(path, times=(0, NOON.timestamp() - seconds))
    _, report = report_of(tree)
    browser.show(width, 900, "light")
    browser.open(report)
    right = "document.querySelector('[aria-labelledby=delay] {}').getBoundingClientRect().right"
    card = "document.querySelector('[aria-labelledby=delay]').getBoundingClientRect().right"
    assert browser.evaluate(right.format(".stack")) < browser.evaluate(card)


@needs_chromium
@pytest.mark.parametrize("ends", [(10, 10), (10, 25)])
def test_the_lag_is_below_its_header(tmp_path: Path, browser: Page, ends: tuple[int, int]) -> None:
    rows = Coverage()
    log = {}
    for partition, end in enumerate(ends):
        rows.add(TopicPartition("orders", partition), np.arange(10, dtype=np.int64))
        log[TopicPartition("orders", partition)] = (0, end)
    tree = OutputTree(tmp_path)
    landed = gather([tree.parquet(sources("orders", 0, range(10)))])
    completeness = ReconcileReport(compare(log, rows, Coverage()), [], [], 1, 0, "read_committed")
    page = tmp_path / "report.html"
    given = ReportInput(landed, completeness, NOON, ["orders"], [])
    page.write_bytes(render_page(given))
    browser.show(1440, 900, "light")
    browser.open(page)
    apart = browser.evaluate("""(() => {
        const table = document.querySelector('[aria-labelledby=partitions] .stack');
        const leaf = element => element.lastElementChild ? leaf(element.lastElementChild) : element;
        const [head, cell] = ['thead th:last-child', 'tbody td:last-child'].map(place => {
            const text = document.createRange();
            text.selectNodeContents(leaf(table.querySelector(place)).firstChild);
            return text.getBoundingClientRect();
        });
        return Math.max(0, cell.left - head.right, head.left - cell.right);
    })()""")
    assert apart == 0, "header and number share no column of pixels"


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_finds_no_fault(tmp_path: Path, browser: Page, width: int, scheme: str) -> None:
    _, report = report_of(hostile_tree(tmp_path))
    browser.show(width, 844, scheme)
    browser.open(report)
    assert browser.complaints == []
    assert browser.requests == [report.as_uri()]
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.evaluate("typeof window.pwned") == "undefined"
    assert browser.evaluate("document.querySelectorAll('script, img, iframe, form, a').length") == 0
    first = browser.evaluate("document.querySelector('main h2').textContent")
    assert first == "Something is wrong in the files"
    # Half of this height is the verdict's; what follows is beyond no fold.
    bottom = browser.evaluate("document.querySelector('.verdict').getBoundingClientRect().bottom")
    assert bottom < 422


@needs_chromium
def test_a_table_that_is_opened_does_not_widen_the_page(tmp_path: Path, browser: Page) -> None:
    _, report = report_of(hostile_tree(tmp_path))
    browser.show(390, 844)
    browser.open(report)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= 390


@needs_chromium
def test_a_script_that_got_in_would_not_run(tmp_path: Path, browser: Page) -> None:
    _, report = report_of(hostile_tree(tmp_path))
    markup = report.read_text(encoding="utf-8")
    body = "<script>window.pwned = 1</script><img src='http://127.0.0.1:9/x.png'>"
    report.write_text(markup.replace("<main>", f"<main>{body}"), encoding="utf-8")
    browser.open(report)
    assert browser.evaluate("typeof window.pwned") == "undefined"
    assert len(browser.complaints) == 2
    assert all("Content Security Policy" in one for one in browser.complaints)


def test_with_a_broker_the_report_knows_what_is_missing(
    tmp_path: Path,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    topic = fresh_topic(partitions=1)
    producer = Producer(kafka.for_librdkafka())
    for number in range(50):
        producer.produce(topic, f"v{number}")
    assert producer.flush(30) == 0
    tree = OutputTree(tmp_path)
    tree.parquet(sources(topic, 0, range(40)))
    flag = f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"
    code, report = report_of(tree, flag)
    assert code == 1
    assert "Not complete yet. Of 50 records in Kafka: 10 in no file." in capsys.readouterr().out
    assert "Not complete yet" in report.read_text(encoding="utf-8")
    tree.letters(sources(topic, 0, range(40, 50)))
    code, report = report_of(tree, flag, f"--input_topics={topic}")
    assert code == 0
    assert "Complete. 50 records in Kafka" in capsys.readouterr().out
