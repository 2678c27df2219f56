"""How every Java process of the pipeline is started."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from beam_pipeline.runtime.processes import ManagedProcess

# One small process of several on a machine: the serial collector starts faster, takes less
# memory and no threads; -UsePerfData leaves no files in the system's temporary directory.
_JVM_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)


def start_jvm(
    name: str,
    java: Path,
    jars: Sequence[Path],
    main_class: str,
    arguments: Sequence[str],
    log_file: Path,
    *,
    heap_mb: int,
    properties: Mapping[str, str],
    extra_flags: Sequence[str] = (),
    outlives_parent: bool = False,
) -> ManagedProcess:
    """Start a Java program; the class path goes by the environment, so `ps` stays readable.

    Args:
        name, log_file, outlives_parent: as for `ManagedProcess`.
        java: the `java` program.
        jars: class path, in order.
        main_class, arguments: what to run.
        heap_mb: upper bound of the heap, in MiB.
        properties: Java system properties.
        extra_flags: further JVM flags.
    """
    command = [
        *(str(java), f"-Xmx{heap_mb}m", *_JVM_FLAGS, *extra_flags),
        *(f"-D{key}={value}" for key, value in properties.items()),
        *(main_class, *arguments),
    ]
    class_path = os.pathsep.join(map(str, jars))
    return ManagedProcess(
        name, command, log_file, env={"CLASSPATH": class_path}, outlives_parent=outlives_parent
    )
