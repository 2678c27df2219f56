"""The step that sends dead-letter files: the pipeline ends, whatever the topic does."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, is_empty
from output_trees import OutputTree

from beam_pipeline.files.sent_notes import notes_directory
from beam_pipeline.io.dead_letters import PublishDeadLetterFiles
from beam_pipeline.io.windowed_files import FileLayout, WrittenFile


def test_a_broker_that_is_away_holds_nothing_up(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path)
    paths = [tree.letters([("orders", 0, offset)]) for offset in range(3)]
    files = [WrittenFile(str(path), 1, 1) for path in [*paths, tmp_path / "gone"]]
    layout = FileLayout(str(tree.dead_letter_dir), "e1", private=True)
    properties = {"bootstrap.servers": "127.0.0.1:9"}
    with TestPipeline() as pipeline:
        published = pipeline | beam.Create(files) | PublishDeadLetterFiles(properties, ".x", layout)
        assert_that(published, is_empty())
    assert list(notes_directory(tree.dead_letter_dir).iterdir()) == []
