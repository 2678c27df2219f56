"""Which letters a replay sends, and with which headers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from output_trees import dead_letter

from beam_pipeline.tools.dlq.letters import Letter
from beam_pipeline.tools.dlq.replay_plan import (
    Fate,
    ReplayChoice,
    fate_of,
    plan_replay,
    replay_headers,
    replay_timestamp_ms,
    target_topics,
)

EVERYTHING = ReplayChoice(lambda letter: True, to=None, max_attempts=5)
HEADERS = st.lists(
    st.tuples(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.sampled_from(["dlq.attempt", "dlq.", "dlqx", "__connect.errors.topic", "trace"]),
        ),
        st.one_of(st.none(), st.binary()),
    )
)


def letter(offset: int = 0, attempt: int = 1, topic: str = "orders") -> Letter:
    return Letter.from_document(dead_letter(topic, 0, offset, attempt=attempt))


def test_the_fate_of_a_letter() -> None:
    one = letter()
    nothing = ReplayChoice(lambda letter: False, to=None, max_attempts=5)
    assert fate_of(one, EVERYTHING, {}) is Fate.TO_SEND
    assert fate_of(one, nothing, {}) is Fate.NOT_CHOSEN
    assert fate_of(one, EVERYTHING, {"orders": {one.dlq_id}}) is Fate.ALREADY_SENT
    assert fate_of(one, EVERYTHING, {"elsewhere": {one.dlq_id}}) is Fate.TO_SEND
    assert fate_of(letter(attempt=4), EVERYTHING, {}) is Fate.TO_SEND
    assert fate_of(letter(attempt=5), EVERYTHING, {}) is Fate.MAX_ATTEMPTS_REACHED


def test_a_plan_counts_every_letter_that_is_meant_once() -> None:
    letters = [letter(0), letter(1), letter(2, attempt=7), letter(3, topic="clicks")]
    plan = plan_replay(letters, EVERYTHING, {"orders": {letters[0].dlq_id}})
    assert plan.to_send == {"orders": 1, "clicks": 1}
    assert (plan.already_sent, plan.max_attempts_reached) == (1, 1)
    elsewhere = ReplayChoice(lambda letter: True, to="retry", max_attempts=9)
    assert plan_replay(letters, elsewhere, {}).to_send == {"retry": 4}
    assert target_topics(letters, EVERYTHING) == {"orders", "clicks"}
    assert target_topics(letters, elsewhere) == {"retry"}


@given(HEADERS, st.integers(1, 100))
def test_headers_are_the_records_own_and_two_more(
    headers: list[tuple[str, bytes | None]], attempt: int
) -> None:
    one = Letter.from_document(dead_letter(headers=headers, attempt=attempt))
    *own, attempted, redriven = replay_headers(one)
    assert own == [
        (name, value)
        for name, value in headers
        if not name.startswith("dlq.") and not name.startswith("__connect.errors.")
    ]
    assert attempted == ("dlq.attempt", str(attempt + 1).encode())
    assert redriven == ("dlq.redrive.of", one.dlq_id.encode())


def test_the_timestamp_is_the_records() -> None:
    document = dead_letter()
    assert replay_timestamp_ms(Letter.from_document(document)) == 1795435204500
    document["source"]["timestamp"] = None
    assert replay_timestamp_ms(Letter.from_document(document)) is None
