"""Start a Java process of the pipeline."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import ManagedProcess

# For one small process of several on a machine: the serial collector starts faster, needs less
# memory and no threads; without UsePerfData no files are left in the temporary directory.
JVM_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)

QUICK_START = ("-XX:TieredStopAtLevel=1",)
"""Java's first compiler only, for a JVM that lives for seconds or mostly waits for others. The
second one would take as much of a small machine as the work itself."""

READER_HEAP_MB = 1024

_HEAP_PER_VALUE = 64
"""How many of the largest values a reader's heap has room for. Prism reads 16 partitions at a time,
and each has a value in its poll, in a pack, in the encoded pack and in gRPC's buffer."""

LOOPBACK_RULE = Path(__file__).with_name("grpc_loopback.btm")
"""Byteman rules that make Beam's gRPC servers in Java listen on loopback; they take no address."""

_TAIL_LINES = 50

LOGGING_CONFIG = Path(__file__).with_name("java_logging.properties")


def start_jvm(
    name: str,
    java: Path,
    jars: Sequence[Path],
    main_class: str,
    arguments: Sequence[str],
    log_file: Path,
    *,
    heap_mb: int | None = None,
    properties: Mapping[str, str],
    extra_flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    outlives_parent: bool = False,
) -> ManagedProcess:
    """Start a Java program. The class path is in the environment, so that `ps` stays readable.

    Args:
        name, log_file, outlives_parent: as for `ManagedProcess`.
        java: the `java` program.
        jars: class path, in order.
        main_class, arguments: what to run.
        heap_mb: upper bound of the heap, in MiB; None where `extra_flags` has it.
        properties: Java system properties.
        extra_flags: further JVM flags.
        environment: variables in addition to CLASSPATH.
    """
    command = [
        *(str(java), *JVM_FLAGS, *extra_flags),
        *([] if heap_mb is None else [f"-Xmx{heap_mb}m"]),
        *(f"-D{key}={value}" for key, value in properties.items()),
        *(main_class, *arguments),
    ]
    class_path = os.pathsep.join(map(str, jars))
    return ManagedProcess(
        name,
        command,
        log_file,
        env={**(environment or {}), "CLASSPATH": class_path},
        outlives_parent=outlives_parent,
    )


def reader_heap_mb(max_value_bytes: int) -> int:
    """Return how large the heap of a JVM that reads Kafka may get, in MiB.

    >>> reader_heap_mb(8 * 1024 * 1024), reader_heap_mb(32 * 1024 * 1024)
    (1024, 2560)
    """
    return max(READER_HEAP_MB, 512 + _HEAP_PER_VALUE * max_value_bytes // 1024**2)


def reader_end(process: ManagedProcess, heap_mb: int) -> str:
    """Return one line on how a JVM that reads Kafka ended, with the remedy if memory was short."""
    if any("java.lang.OutOfMemoryError" in line for line in process.tail(_TAIL_LINES)):
        return (
            f"{process.name} ran out of memory: its heap of {heap_mb} MiB is too small for the "
            "records of the topic; set --max_value_bytes to the size of the largest, and the heap "
            f"follows (log: {process.log_file})"
        )
    return process.end()


def loopback_flags(jars: Sequence[Path]) -> list[str]:
    """Return JVM flags with which Byteman, an agent, applies `LOOPBACK_RULE` to gRPC.

    For Java an equals sign ends an agent's path, and for Byteman a comma ends an option.

    Args:
        jars: the jars of a lock; without Byteman among them there are no flags.

    Raises:
        EnvironmentFailure: a path has one of the two signs in it.
    """
    agent = next((jar for jar in jars if jar.name.startswith("byteman-")), None)
    if agent is None:
        return []
    for path, remedy in (
        (agent, "set BEAM_PIPELINE_CACHE to a directory without them"),
        (LOOPBACK_RULE, "move the project to a directory without them"),
    ):
        if set(",=") & set(str(path)):
            raise EnvironmentFailure(f"{path}: Java can't take ',' or '=' in this path; {remedy}")
    return [f"-javaagent:{agent}=script:{LOOPBACK_RULE}"]


def write_agent(path: Path, agent_class: str, jars: Sequence[Path]) -> None:
    """Write a jar for `-javaagent` that has only a manifest.

    Args:
        path: the jar.
        agent_class: the class with the `premain` method, in one of the jars.
        jars: the class path that the agent brings.
    """
    entries = {
        "Manifest-Version": "1.0",
        "Premain-Class": agent_class,
        "Class-Path": " ".join(jar.absolute().as_uri() for jar in jars),
    }
    lines = []
    for name, value in entries.items():
        # A line has at most 72 bytes; one that begins with a blank continues the line before.
        text = f"{name}: {value}"
        lines.append(text[:70])
        lines += [f" {text[start : start + 69]}" for start in range(70, len(text), 69)]
    with zipfile.ZipFile(path, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "".join(f"{line}\r\n" for line in lines))
