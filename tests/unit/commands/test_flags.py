"""What flags take and refuse."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from beam_pipeline.errors import UsageError
from beam_pipeline.files.names import MAX_TOPIC_LENGTH, PARQUET_SUFFIX, OutputFile
from beam_pipeline.runtime.supervisor import new_epoch
from beam_pipeline.settings.flags import topics_of


def test_topics_are_separated_by_commas() -> None:
    assert topics_of("orders, clicks,") == ("orders", "clicks")
    assert topics_of("orders,clicks,orders") == ("orders", "clicks")


@pytest.mark.parametrize("flag", [None, "", " , "])
def test_no_topic_is_refused(flag: str | None) -> None:
    with pytest.raises(UsageError, match="--input_topics is missing"):
        topics_of(flag)


def test_a_topic_too_long_for_file_names_is_refused() -> None:
    with pytest.raises(UsageError, match=f"{MAX_TOPIC_LENGTH + 1} characters"):
        topics_of("t" * (MAX_TOPIC_LENGTH + 1))


def test_the_longest_topic_has_file_names() -> None:
    (topic,) = topics_of("_" * MAX_TOPIC_LENGTH)
    start, end = (datetime(2026, 1, 1, hour, tzinfo=timezone.utc) for hour in (0, 1))
    file = OutputFile(topic, start, end, 9_999, new_epoch(), 9_999_999, PARQUET_SUFFIX)
    assert OutputFile.parse(file.name) == file
    assert len(file.name) <= 255
