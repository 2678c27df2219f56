"""Archives of the classes that a JVM loads, so that its next start does not parse them again.

Java calls this application class-data sharing. A JVM notes its classes in a list; from the list
another JVM makes the archive, which takes some 10 s. A JVM that finds the archive made by another
version of Java, or for other jars, says so and starts without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import run_to_end
from beam_pipeline.runtime.programs.cache import cache_directory, scratch_directory
from beam_pipeline.runtime.programs.jvm import JVM_FLAGS
from beam_pipeline.storage.durable import write_atomically


class ClassArchive:
    """The archive of one program's classes in the cache.

    Attributes:
        path: the archive; it may be missing.
        class_list: what it is made from; it may be missing.
    """

    def __init__(self, program: str, java: Path, jars: Sequence[Path], last_class: str) -> None:
        """Describe the archive; nothing is made yet.

        Args:
            program: a name for the cache.
            java: the `java` program.
            jars: the class path, in order.
            last_class: a class that is loaded when the program does its main work, such as
                "beam_pipeline/Pack". A list without it is too short.
        """
        inputs = [str(java.resolve()), str(java.stat().st_mtime_ns), *map(str, jars), *JVM_FLAGS]
        digest = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:12]
        self._directory = cache_directory() / f"class-archive-{program}-{digest}"
        self._java = java
        self._jars = jars
        self._last_class = last_class
        self.path = self._directory / "classes.jsa"
        self.class_list = self._directory / "classes.list"

    @property
    def is_wanted(self) -> bool:
        """Return whether the list is there and the archive was neither made nor tried in vain."""
        return self.class_list.is_file() and not (self.path.exists() or self._failed.exists())

    @property
    def _failed(self) -> Path:
        return self._directory / "failed"

    def flags(self) -> list[str]:
        """Return the JVM flags that use the archive; none where it is missing."""
        return [f"-XX:SharedArchiveFile={self.path}"] if self.path.is_file() else []

    def list_flags(self, new_list: Path) -> list[str]:
        """Return the JVM flags that note the classes in `new_list` as they are loaded."""
        return [f"-XX:DumpLoadedClassList={new_list}"]

    def keep(self, new_list: Path) -> None:
        """Put the list of a JVM that has ended into the cache, if it is whole.

        A cache that can't be written keeps none.
        """
        with contextlib.suppress(OSError):
            content = new_list.read_bytes()
            last = self._last_class.encode()
            if any(line.split(b" ", 1)[0] == last for line in content.splitlines()):
                self._directory.mkdir(exist_ok=True)
                write_atomically(self.class_list, content, durable=False, private=False)

    def make_in_background(self) -> None:
        """Make the archive in a thread, with the lowest priority, unless another process does.

        The end of this process ends it; the next start begins anew.
        """
        threading.Thread(target=self.make, name="class archive", daemon=True).start()

    def make(self) -> None:
        """Make the archive from the list; do nothing while another process makes it.

        What fails is not tried again, because a start needs no archive.
        """
        with contextlib.suppress(OSError, EnvironmentFailure), contextlib.ExitStack() as stack:
            lock = os.open(self._directory, os.O_RDONLY)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            scratch = stack.enter_context(scratch_directory())
            made = scratch / self.path.name
            command: list[str | Path] = [
                *("nice", "-n", "19", self._java, *JVM_FLAGS, "-Xshare:dump"),
                f"-XX:SharedClassListFile={self.class_list}",
                f"-XX:SharedArchiveFile={made}",
            ]
            class_path = os.pathsep.join(map(str, self._jars))
            env = {"CLASSPATH": class_path}
            code = run_to_end("class archive", command, scratch / "java.log", env=env)
            if code == 0 and made.is_file():
                made.replace(self.path)
            elif code > 0:
                self._failed.touch()
