"""A graph whose dead letters go nowhere is refused when it is built."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from sample_records import commerce_contract, commerce_event, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import CollectRecords
from beam_pipeline.records import KafkaRecord
from beam_pipeline.transforms import DeadLetterCollector, Normalize, Validate

CONTRACT = commerce_contract()
RULES = ValidationRules(CONTRACT.event_time_field)


def records(pipeline: beam.Pipeline, *values: KafkaRecord) -> beam.PCollection[KafkaRecord]:
    created: beam.PCollection[KafkaRecord] = pipeline | beam.Create(values) | CollectRecords()
    return created


def test_the_letters_of_all_steps_come_together() -> None:
    with beam.Pipeline() as pipeline:
        broken, good = kafka_record(b"{", offset=1), kafka_record(commerce_event(), offset=2)
        batches = records(pipeline, broken, good)
        with DeadLetterCollector(pipeline) as dead:
            rows = dead.collect(batches | Validate(CONTRACT, RULES))
            rows = dead.collect(rows | Normalize(CONTRACT))
        letters = dead.output() | beam.FlatMap(list) | beam.Map(lambda letter: letter.offset)
        assert_that(letters, equal_to([1]))
        offsets = rows | beam.FlatMap(lambda batch: batch.column("kafka_offset").to_pylist())
        assert_that(offsets, equal_to([2]), label="rows")


def test_a_step_whose_letters_nobody_reads_is_refused() -> None:
    pipeline = beam.Pipeline()
    batches = records(pipeline)
    dead = DeadLetterCollector(pipeline)
    rows = dead.collect(batches | "First" >> Validate(CONTRACT, RULES))
    _ = rows | "Second" >> Normalize(CONTRACT)
    with pytest.raises(RuntimeError, match=r"nothing reads the dead letters of the step 'Second'"):
        dead.close()


def test_letters_that_are_read_in_another_way_need_no_collector() -> None:
    pipeline = beam.Pipeline()
    batches = records(pipeline)
    with DeadLetterCollector(pipeline) as dead:
        validated = batches | Validate(CONTRACT, RULES)
        _ = validated.dead | beam.Map(print)
        dead.collect(validated.main | Normalize(CONTRACT))
    _ = dead.output() | "More" >> beam.Map(print)


def test_steps_from_before_are_none_of_its_business() -> None:
    pipeline = beam.Pipeline()
    rows = (records(pipeline) | Validate(CONTRACT, RULES)).main
    with DeadLetterCollector(pipeline) as dead:
        dead.collect(rows | Normalize(CONTRACT))


def test_a_collector_that_is_not_closed_is_refused() -> None:
    pipeline = beam.Pipeline()
    dead = DeadLetterCollector(pipeline)
    dead.collect(records(pipeline) | Validate(CONTRACT, RULES))
    with pytest.raises(RuntimeError, match=r"not closed; .*test_dead_letter_collector.py"):
        pipeline.run()


def test_a_collector_whose_output_is_not_taken_is_refused() -> None:
    pipeline = beam.Pipeline()
    with DeadLetterCollector(pipeline) as dead:
        dead.collect(records(pipeline) | Validate(CONTRACT, RULES))
    with pytest.raises(RuntimeError, match="nothing reads the collected dead letters"):
        pipeline.run()


def test_without_steps_there_are_no_letters() -> None:
    with beam.Pipeline() as pipeline:
        with DeadLetterCollector(pipeline) as dead:
            pass
        assert_that(dead.output(), equal_to([]))
