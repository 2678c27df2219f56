"""The two outputs of a step, and the collector of the dead letters of several steps."""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam import coders
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.transforms.error_handling import ErrorHandler

from beam_pipeline.transforms.batch_coder import returning_batches
from beam_pipeline.transforms.dead_letters import DeadLetters, DeadLettersCoder

DEAD = "dead"
"""Tag of the output of dead letters."""


class Outputs(NamedTuple):
    """The outputs of a step: the elements that go on, and a PCollection[DeadLetters].

    `outputs.dead | beam.FlatMap(list)` has each `DeadLetter` for itself.
    """

    main: beam.PCollection[Any]
    dead: beam.PCollection[Any]


def with_batch_outputs(step: Any, main: str) -> Any:
    """Return a ParDo with two typed outputs: RecordBatch under the tag `main`, DeadLetters under
    `DEAD`."""
    register_letters()
    return returning_batches(step, **{DEAD: DeadLetters}).with_outputs(DEAD, main=main)


def register_letters() -> None:
    """Register the coder of DeadLetters, as `returning_batches` does for batches."""
    coders.registry.register_coder(DeadLetters, DeadLettersCoder)


class DeadLetterCollector(ErrorHandler):
    """Collects the dead letters of the steps that are applied while it is open.

    It works as Beam's `ErrorHandler` does, and also refuses a step whose dead letters nobody reads:

        with DeadLetterCollector(pipeline) as dead:
            rows = dead.collect(records | Validate(contract, rules))
            rows = dead.collect(rows | Normalize(contract))
        letters = dead.output()

    Raises:
      RuntimeError: when it is closed, a step's dead letters were neither collected nor read in
        another way; when the pipeline runs, it was not closed or its output was not taken.
    """

    def __init__(self, pipeline: beam.Pipeline) -> None:
        super().__init__(None)  # type: ignore[no-untyped-call]
        self._made_at = traceback.format_stack()[-2].strip()
        self._pipeline = pipeline
        self._earlier_steps = {id(step) for step in _steps_of(pipeline)}
        self._is_output_taken = False

    def collect(self, outputs: Outputs) -> beam.PCollection[Any]:
        """Take the dead letters of a step and return its main output."""
        self.add_error_pcollection(outputs.dead)  # type: ignore[no-untyped-call]
        return outputs.main

    def close(self) -> None:
        """Check that no dead letters are left, and flatten those that were collected."""
        collected = {id(letters) for letters in self._error_pcolls}
        left = _unread_dead_letters(self._pipeline, self._earlier_steps)
        for letters, label in left.items():
            if letters not in collected:
                raise RuntimeError(
                    f"nothing reads the dead letters of the step {label!r}; "
                    "pass its outputs to DeadLetterCollector.collect"
                )
        self._output = tuple(self._error_pcolls) | "FlattenDead" >> beam.Flatten(
            pipeline=self._pipeline
        )
        self._closed = True

    def output(self) -> beam.PCollection[Any]:
        """Return the PCollection[DeadLetters] of all steps; the collector must be closed."""
        letters: beam.PCollection[Any] = super().output()  # type: ignore[no-untyped-call]
        self._is_output_taken = True
        return letters

    def verify_closed(self) -> None:
        """Check that the letters go on; Beam calls this when the pipeline runs."""
        if not self._closed:
            raise RuntimeError(
                "a DeadLetterCollector was not closed; use it in a with statement. It was made at "
                f"{self._made_at}"
            )
        if not self._is_output_taken:
            raise RuntimeError(
                "nothing reads the collected dead letters; use DeadLetterCollector.output"
            )


def _steps_of(pipeline: beam.Pipeline) -> list[AppliedPTransform]:
    """Return all steps, each behind the ones that it is part of."""
    visitor = _StepVisitor()
    pipeline.visit(visitor)
    return visitor.steps


class _StepVisitor(PipelineVisitor):
    def __init__(self) -> None:
        self.steps: list[AppliedPTransform] = []

    def enter_composite_transform(self, step: AppliedPTransform) -> None:
        self.steps.append(step)

    def visit_transform(self, step: AppliedPTransform) -> None:
        self.steps.append(step)


def _unread_dead_letters(pipeline: beam.Pipeline, left_out: set[int]) -> dict[int, str]:
    """Return the id of each PCollection of dead letters that no step reads, with its step's label.

    Args:
      pipeline: what is searched.
      left_out: ids of steps whose outputs do not matter.
    """
    steps = _steps_of(pipeline)
    read = {id(letters) for step in steps for letters in step.inputs}
    unread: dict[int, str] = {}
    for step in steps:
        letters = step.outputs.get(DEAD)
        if letters is not None and id(step) not in left_out and id(letters) not in read:
            unread.setdefault(id(letters), step.full_label)
    return unread
