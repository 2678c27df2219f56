"""A letter as a record of its topic, and the forms that the topic may take instead."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st
from output_trees import dead_letter

from beam_pipeline.outbox.topic_record import NOW_MS, REFUSALS, TopicRecord, next_form, record_of


def record(**changes: Any) -> TopicRecord:
    return record_of(dead_letter(**changes))


def headers_of(found: TopicRecord) -> dict[str, bytes | None]:
    return dict(found.headers)


def forms(found: TopicRecord | None, error_code: int) -> list[TopicRecord]:
    """All forms after refusals of one kind."""
    assert found is not None
    made = []
    while (found := next_form(found, error_code)) is not None:
        made.append(found)
    return made


def test_the_records_own_headers_come_first_and_unchanged() -> None:
    own = [("a", None), ("dlq.id", b"zz"), ("a", b"\xff\0"), ("__connect.errors.topic", b"x")]
    made = record(headers=own, key=b"\xff", value=b"")
    assert made.headers[:4] == own
    assert made.headers[4] == ("__connect.errors.topic", b"orders")
    assert headers_of(made)["dlq.id"] == made.dlq_id.encode()
    assert (made.key, made.value) == (b"\xff", b"")


def test_a_name_with_nul_is_left_out_and_counted() -> None:
    made = record(headers=[("a\0b", b"1"), ("c", b"2")])
    assert made.own_headers == (("c", b"2"),)
    assert headers_of(made)["dlq.headers.left_out"] == b"1"


def test_a_stamp_that_no_text_can_tell_is_in_milliseconds() -> None:
    letter = dead_letter()
    letter["source"] |= {"timestamp": None, "timestamp_ms": 2**63 - 1}
    assert record_of(letter).timestamp_ms == 2**63 - 1
    assert headers_of(record_of(letter))["dlq.original.timestamp"] == b"%d" % (2**63 - 1)
    del letter["source"]["timestamp_ms"]  # a file of an earlier version
    assert record_of(letter).timestamp_ms == NOW_MS
    assert "dlq.original.timestamp" not in headers_of(record_of(letter))


def test_too_large_leaves_out_value_then_headers_then_key() -> None:
    large = record(value=b"v" * 900, key=b"k" * 100, headers=[("h", b"x" * 50)])
    made = forms(large, KafkaError.MSG_SIZE_TOO_LARGE)
    assert [form.changes[-1] for form in made] == ["value", "headers", "key", "error headers"]
    assert made[0].value is None
    assert headers_of(made[0])["dlq.value.length"] == b"900"
    assert headers_of(made[0])["h"] == b"x" * 50
    assert "h" not in headers_of(made[1])
    assert headers_of(made[1])["dlq.headers.left_out"] == b"1"
    assert made[2].key == large.dlq_id.encode()
    assert headers_of(made[2])["dlq.key.replaced"] == b"100"
    smallest = {
        "dlq.id",
        "dlq.error.code",
        "dlq.value.length",
        "__connect.errors.topic",
        "__connect.errors.partition",
        "__connect.errors.offset",
    }
    assert headers_of(made[3]).keys() == smallest


def test_a_timestamp_becomes_now_and_nothing_else_changes() -> None:
    original = record()
    (form,) = forms(original, KafkaError.INVALID_TIMESTAMP)
    assert form.timestamp_ms == NOW_MS
    assert (form.key, form.value, form.headers) == (original.key, original.value, original.headers)
    assert headers_of(form)["dlq.original.timestamp"] == b"%d" % original.timestamp_ms


@pytest.mark.parametrize("code", [KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG])
def test_a_null_key_becomes_the_id(code: int) -> None:
    form = next_form(record(key=None, value=b"v"), code)
    assert form is not None
    assert form.key == form.dlq_id.encode()
    assert (form.value, headers_of(form)["dlq.key.replaced"]) == (b"v", b"null")


@given(
    key=st.none() | st.binary(max_size=200),
    value=st.none() | st.binary(max_size=50),
    headers=st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=3),
    codes=st.lists(st.sampled_from(sorted(REFUSALS)), min_size=20, max_size=20),
)
def test_there_is_an_end_to_the_forms_and_each_has_its_id(
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
    codes: list[int],
) -> None:
    form: TopicRecord | None = record(key=key, value=value, headers=headers)
    seen = []
    for code in codes:
        assert form is not None
        seen.append(form)
        assert headers_of(form)["dlq.id"] == form.dlq_id.encode()
        changed = next_form(form, code)
        if changed is None:
            break
        form = changed
    else:
        raise AssertionError("no end")
    assert len({form.changes for form in seen}) == len(seen)
