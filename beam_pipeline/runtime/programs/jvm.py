"""How every Java process of the pipeline is started."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import ManagedProcess

# One small process of several on a machine: the serial collector starts faster, takes less
# memory and no threads; -UsePerfData leaves no files in the system's temporary directory.
_JVM_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)

QUICK_START = ("-XX:TieredStopAtLevel=1",)
"""Java's quick compiler alone, for a JVM that lives for seconds or mostly waits for others: its
second one takes as much of a small machine as the work itself."""

LOOPBACK_RULE = Path(__file__).with_name("grpc_loopback.btm")
LOGGING_CONFIG = Path(__file__).with_name("java_logging.properties")
"""Has Beam's gRPC servers in Java, which take no address, listen on loopback; for Byteman."""


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
    """Start a Java program; the class path goes by the environment, so `ps` stays readable.

    Args:
        name, log_file, outlives_parent: as for `ManagedProcess`.
        java: the `java` program.
        jars: class path, in order.
        main_class, arguments: what to run.
        heap_mb: upper bound of the heap, in MiB; None leaves it to `extra_flags`.
        properties: Java system properties.
        extra_flags: further JVM flags.
        environment: variables beside CLASSPATH.
    """
    command = [
        *(str(java), *_JVM_FLAGS, *extra_flags),
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


def loopback_flags(jars: Sequence[Path]) -> list[str]:
    """JVM flags by which Byteman, an agent, applies `LOOPBACK_RULE` to gRPC as it is loaded.

    Java takes an equals sign as the end of an agent's path, Byteman a comma as that of an option.

    Args:
        jars: a lock's; without Byteman among them there are no flags.

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
    """Write a jar for `-javaagent` that is nothing but a manifest.

    Args:
        path: the jar.
        agent_class: has the `premain` method; it is in one of the jars.
        jars: class path that comes in with the agent.
    """
    entries = {
        "Manifest-Version": "1.0",
        "Premain-Class": agent_class,
        "Class-Path": " ".join(jar.absolute().as_uri() for jar in jars),
    }
    lines = []
    for name, value in entries.items():
        # A line has at most 72 bytes; one that begins with a blank goes on with the one before.
        text = f"{name}: {value}"
        lines.append(text[:70])
        lines += [f" {text[start : start + 69]}" for start in range(70, len(text), 69)]
    with zipfile.ZipFile(path, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "".join(f"{line}\r\n" for line in lines))
