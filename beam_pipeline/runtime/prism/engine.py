"""Run jobs on Prism, Beam's local portable runner."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from beam_pipeline.runtime.engine import EngineStatus, LogFile
from beam_pipeline.runtime.prism.build import find_prism, start_prism
from beam_pipeline.runtime.processes import ManagedProcess
from beam_pipeline.runtime.programs.cache import scratch_directory
from beam_pipeline.runtime.programs.class_archive import ClassArchive
from beam_pipeline.runtime.programs.expansion import start_expansion_service
from beam_pipeline.runtime.programs.java import find_java
from beam_pipeline.runtime.programs.java_classes import beam_jars
from beam_pipeline.runtime.programs.jvm import READER_HEAP_MB, reader_end
from beam_pipeline.runtime.programs.progress import SetupProgress


@dataclass(frozen=True)
class LocalTools:
    """The programs that Prism needs."""

    java: Path
    expansion_jars: list[Path]
    prism: Path

    def class_archive(self) -> ClassArchive:
        """Return the archive of the classes that reading Kafka loads."""
        return ClassArchive("reader", self.java, self.expansion_jars, "beam_pipeline/Pack")


def find_local_tools() -> LocalTools:
    """Find or fetch the programs, and show the progress.

    Raises:
      EnvironmentFailure: one can't be found, fetched or built.
    """
    with SetupProgress() as progress:
        java = find_java(progress)
        return LocalTools(
            java=java,
            expansion_jars=beam_jars("expansion", java, progress),
            prism=find_prism(progress),
        )


class PrismEngine:
    """Prism with Beam's Java expansion service; the Python worker runs in the job's process."""

    name = "Prism"
    restores_checkpoints = False

    def __init__(self, tools: LocalTools, log_file: LogFile, heap_mb: int = READER_HEAP_MB) -> None:
        """Describe the engine; nothing is started yet.

        Args:
          tools: the programs.
          log_file: returns the log file of a process.
          heap_mb: upper bound of the heap of the JVM that reads Kafka, in MiB.
        """
        self._tools = tools
        self._heap_mb = heap_mb
        self._log_file = log_file
        self._processes: list[ManagedProcess] = []
        self._flags: list[str] = []
        self._archive = tools.class_archive()
        self._scratch = ExitStack()

    def start(self, epoch: str) -> None:
        tools = self._tools
        expansion = start_expansion_service(
            tools.java,
            tools.expansion_jars,
            self._log_file("expansion"),
            heap_mb=self._heap_mb,
            flags=self._class_flags(),
        )
        self._processes.append(expansion.process)
        prism = start_prism(tools.prism, self._log_file("prism"))
        self._processes.append(prism.process)
        self._flags = [
            "--runner=PortableRunner",
            f"--job_endpoint={prism.endpoint}",
            "--environment_type=LOOPBACK",
            f"--expansion_service={expansion.endpoint}",
            f"--packs_dir={self._scratch.enter_context(scratch_directory())}",
        ]

    def job_flags(self) -> list[str]:
        return self._flags

    def status(self) -> EngineStatus:
        dead = next((process for process in self._processes if not process.alive), None)
        return EngineStatus(failure=reader_end(dead, self._heap_mb) if dead else None)

    def checkpoint(self) -> str | None:
        return None

    def stop(self) -> None:
        with ExitStack() as stack:
            for process in self._processes:
                stack.callback(process.terminate, 1.0)
        self._processes.clear()
        self._scratch.close()

    def _class_flags(self) -> list[str]:
        """Use the archive of classes, or do what the next starts need for it."""
        if self._archive.is_wanted:
            self._archive.make_in_background()
        if self._archive.class_list.is_file():
            return self._archive.flags()
        class_list = self._scratch.enter_context(scratch_directory()) / "classes.list"
        self._scratch.callback(self._archive.keep, class_list)
        return self._archive.list_flags(class_list)

    def leave(self) -> None:
        raise NotImplementedError("a job on Prism ends with the process that submitted it")
