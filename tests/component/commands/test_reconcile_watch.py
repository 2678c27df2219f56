"""`reconcile --watch`: what becomes of proofs that fail, and how it ends."""

from __future__ import annotations

import argparse
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from pyroaring import BitMap64

from beam_pipeline.commands import reconcile as command
from beam_pipeline.commands.metrics import catalogue
from beam_pipeline.commands.metrics.proof import Proof, proof_of
from beam_pipeline.commands.reconcile_watch import _next_proof, watch
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.tools.reconcile.compare import ReconcileReport, compare
from beam_pipeline.tools.reconcile.coverage import Coverage

ORDERS = TopicPartition("orders", 0)
BROKER_AWAY = EnvironmentFailure("no broker answered")


def report(landed: int) -> ReconcileReport:
    """Of a log of ten records, of which so many are rows."""
    offsets = BitMap64(range(landed))
    rows = Coverage({ORDERS: offsets}, records=Counter({ORDERS: landed}))
    compared = compare({ORDERS: (0, 10)}, rows, Coverage())
    return ReconcileReport(compared, [], [], 1, 0, "read_uncommitted")


def proofs(*outcomes: ReconcileReport | BaseException) -> Callable[[], ReconcileReport]:
    """What proofs come to, one after another."""
    coming: Iterator[ReconcileReport | BaseException] = iter(outcomes)

    def prove() -> ReconcileReport:
        outcome = next(coming)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return prove


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("landed", "code"), [(10, 0), (7, 1)])
def test_the_exit_code_is_that_of_the_last_proof(landed: int, code: int) -> None:
    prove = proofs(report(3), report(landed), KeyboardInterrupt())
    assert watch(prove, 0.001, None, as_json=False) == code


def test_a_clean_proof_is_a_line_after_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    watch(proofs(report(10), report(10), KeyboardInterrupt()), 0.001, None, as_json=False)
    *_, last = capsys.readouterr().out.splitlines()
    assert last.endswith("Z clean: 10 records, missing 0, doubled 0")


def test_each_report_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    watch(proofs(report(10), report(7), KeyboardInterrupt()), 0.001, None, as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["missing"] for line in lines] == [0, 3]


@pytest.mark.parametrize("failure", [BROKER_AWAY, StorageAwayError("s3://lake: no answer")])
def test_a_later_proof_that_fails_is_told_and_tried_again(
    failure: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    prove = proofs(report(7), failure, report(10), KeyboardInterrupt())
    assert watch(prove, 0.001, None, as_json=False) == 0
    assert f"Z no proof: {failure}" in capsys.readouterr().err


def test_the_first_proof_must_succeed() -> None:
    with pytest.raises(EnvironmentFailure, match="no broker answered"):
        watch(proofs(BROKER_AWAY), 0.001, None, as_json=False)


def test_what_is_served_after_a_failure_is_what_was_found_before() -> None:
    last = proof_of(report(7), 1_000.0, 2.0, 0)
    after = _next_proof(proofs(BROKER_AWAY), last, as_json=False)
    assert after.unready == "the last proof failed: no broker answered"
    values = {(sample.metric, *sample.labels): sample.value for sample in after.samples(0.0)}
    assert values[catalogue.MISSING, "orders"] == 3
    assert values[catalogue.PROVED_RECORDS, "orders"] == 10
    assert values[catalogue.PROVED_AT,] == 1_000.0
    assert values[catalogue.PROOFS_FAILED,] == 1
    assert [sample.value for sample in Proof().samples(0.0)] == [0]


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf"])
def test_a_pause_must_be_seconds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no number of seconds above 0"):
        command._seconds(text)


def test_a_port_needs_a_watch() -> None:
    parser = argparse.ArgumentParser()
    command.add_flags(parser)
    words = ["--kafka_bootstrap_servers=127.0.0.1:9", "--input_topics=orders"]
    with pytest.raises(UsageError, match="--metrics_port needs --watch"):
        command.run(parser.parse_args([*words, "--metrics_port=9465"]))
