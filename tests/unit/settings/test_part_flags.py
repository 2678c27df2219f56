"""`--start` and `--end`: what they mean, and which flags contradict them."""

from __future__ import annotations

import pytest

from beam_pipeline.cli import command_parsers
from beam_pipeline.commands.backfill import times_of
from beam_pipeline.errors import UsageError
from beam_pipeline.settings.config import EndPoint, Part, StartPoint, part_settings
from beam_pipeline.times import ms_of_rfc3339

NOW = "2026-11-24T15:00:00Z"
PAST, EARLIER, FUTURE = "2026-11-24T14:00Z", "2026-11-24T13:00+01:00", "2026-11-24T16:00Z"


def part(*words: str) -> Part:
    values = vars(command_parsers()["run"].parse_args(words))
    return part_settings(values, ms_of_rfc3339(NOW))


def test_without_them_a_run_lands_everything() -> None:
    assert part() == Part()


def test_words_and_times() -> None:
    assert part("--start=earliest").start == StartPoint("--start=earliest", is_earliest=True)
    assert part("--start=latest").start == StartPoint("--start=latest")
    assert part(f"--start={EARLIER}", f"--end={PAST}") == Part(
        StartPoint(f"--start={EARLIER}", time_ms=ms_of_rfc3339("2026-11-24T12:00Z")),
        EndPoint(f"--end={PAST}", ms_of_rfc3339(PAST)),
    )
    assert part("--start=latest", f"--end={FUTURE}").end is not None


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--start=now"], "--start=now: must be earliest, latest or an RFC 3339 time with its"),
        (["--start=2026-11-24T14:00"], "--start=2026-11-24T14:00: must be earliest"),
        (["--end=latest"], "--end=latest: must be an RFC 3339 time with its offset"),
        (["--end=1969-12-31T00:00Z"], "--end=1969-12-31T00:00Z: must be"),
        ([f"--start={FUTURE}"], "is in the future; give --start=latest"),
        ([f"--start={PAST}", f"--end={EARLIER}"], "nothing would be read"),
        ([f"--start={PAST}", f"--end={PAST}"], f"--start={PAST} is not before --end={PAST}"),
        (["--start=latest", f"--end={PAST}"], "--start=latest is not before"),
        ([f"--end={PAST}", "--until=caught_up"], "--until exclude each other"),
        ([f"--end={PAST}", "--detach"], "no process would end the job"),
        ([f"--end={PAST}", "--from_savepoint=/s"], "--from_savepoint exclude each other"),
        (["--start=latest", "--from_savepoint=/s"], "--from_savepoint exclude each other"),
    ],
)
def test_a_contradiction_is_one_line(words: list[str], refusal: str) -> None:
    with pytest.raises(UsageError, match=refusal.replace("+", r"\+")) as raised:
        part(*words)
    assert "\n" not in str(raised.value)


def test_the_times_of_a_backfill() -> None:
    def times(*words: str) -> tuple[int | None, int | None]:
        return times_of(vars(command_parsers()["backfill"].parse_args(words)))

    assert times() == times("--from=earliest", "--to=start") == (None, None)
    assert times(f"--from={EARLIER}", f"--to={PAST}") == (
        ms_of_rfc3339("2026-11-24T12:00Z"),
        ms_of_rfc3339(PAST),
    )
    with pytest.raises(UsageError, match=f"--from={PAST} is not before --to={PAST}"):
        times(f"--from={PAST}", f"--to={PAST}")
    with pytest.raises(UsageError, match="--to=now: must be start or an RFC 3339 time"):
        times("--to=now")
