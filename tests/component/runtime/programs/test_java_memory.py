"""A JVM that runs out of memory: what to raise."""

from __future__ import annotations

from pathlib import Path

from beam_pipeline.runtime.programs.expansion import start_expansion_service
from beam_pipeline.runtime.programs.java_classes import beam_jars
from beam_pipeline.runtime.programs.jvm import reader_end
from beam_pipeline.runtime.programs.progress import SetupProgress

TOO_SMALL_MB = 6


def test_the_end_of_a_reader_without_memory_names_the_flag(java: Path, tmp_path: Path) -> None:
    with SetupProgress() as progress:
        jars = beam_jars("expansion", java, progress)
    log_file = tmp_path / "expansion.log"
    process = start_expansion_service(java, jars, log_file, heap_mb=TOO_SMALL_MB).process
    try:
        assert process.wait(60) not in (None, 0)
        assert "heap of 6 MiB" in reader_end(process, TOO_SMALL_MB)
        assert "--max_value_bytes" in reader_end(process, TOO_SMALL_MB)
    finally:
        process.terminate(1.0)
