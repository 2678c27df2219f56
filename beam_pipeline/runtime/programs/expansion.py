"""Start Beam's Java expansion service, through which Python pipelines use KafkaIO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beam_pipeline.runtime.processes import LOOPBACK, Service, free_port
from beam_pipeline.runtime.programs.jvm import (
    LOGGING_CONFIG,
    QUICK_START,
    READER_HEAP_MB,
    start_jvm,
)

LOCAL_ARGUMENTS = (
    "--alsoStartLoopbackWorker",
    "--experiments=data_buffer_size_limit=1",
    f"--filesToStage={LOGGING_CONFIG}",
)
"""The Java harness runs inside the service's own JVM, without Docker. It has its classes already.
Without a list of files to stage Beam copies the whole class path, 138 MB, twice at each start.
Packs leave Java at once, or those with their data in files would wait for the bundle's end."""

FLINK_ARGUMENTS = (
    "--defaultEnvironmentType=EMBEDDED",
    "--experiments=use_deprecated_read",
    f"--filesToStage={LOGGING_CONFIG}",
)
"""KafkaIO runs as a native source in the TaskManager's JVM, which has its classes already."""


def start_expansion_service(
    java: Path,
    jars: Sequence[Path],
    log_file: Path,
    *,
    arguments: Sequence[str] = LOCAL_ARGUMENTS,
    heap_mb: int = READER_HEAP_MB,
    flags: Sequence[str] = (),
) -> Service:
    """Start the service with all of Beam's transforms allowed; return before it is ready.

    Args:
        java: the `java` program.
        jars: those of the "expansion" lock.
        log_file: warnings and errors are appended to it.
        arguments: where transforms run, `LOCAL_ARGUMENTS` or `FLINK_ARGUMENTS`.
        heap_mb: upper bound of the heap, in MiB; it has KafkaIO's buffers.
        flags: further JVM flags.

    Returns:
        the service; its endpoint is for `expansion_service=`.
    """
    port = free_port()
    process = start_jvm(
        "Java expansion service",
        java,
        jars,
        "beam_pipeline.LoopbackExpansion",
        [str(port), "--javaClassLookupAllowlistFile=*", *arguments],
        log_file,
        heap_mb=heap_mb,
        properties={"java.util.logging.config.file": str(LOGGING_CONFIG)},
        extra_flags=[*QUICK_START, *flags],
    )
    return Service(process, f"{LOOPBACK}:{port}")
