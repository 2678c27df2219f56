"""Compile this project's own Java classes where they run; a Java runtime has no compiler."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import java_lock_path, java_source_dir
from beam_pipeline.runtime.processes import run_to_end
from beam_pipeline.runtime.programs.cache import cache_directory, move_into_cache, scratch_directory
from beam_pipeline.runtime.programs.java import MINIMUM_JAVA, fetch_jars
from beam_pipeline.runtime.programs.progress import SetupProgress

OWN_CLASSES_PREFIX = "beam-pipeline-classes-"


def beam_jars(lock: str, java: Path, progress: SetupProgress) -> list[Path]:
    """Return the jars of a lock with Beam in it, followed by one with this project's classes.

    The classes are compiled once against the other jars, by Eclipse's compiler, and kept in the
    cache. The jar's name has a digest of sources, compiler and lock.

    Args:
        lock: "expansion" or "flink".
        java: the `java` program.
        progress: shows the download and the compilation.

    Raises:
        EnvironmentFailure: a jar can't be had, or the classes do not compile.
    """
    jars = fetch_jars(java_lock_path(lock), progress)
    jar = _classes_jar(lock)
    if look_for_classes(lock) is None:
        compiler = fetch_jars(java_lock_path("compiler"), progress)
        with progress.step("Compiling Java classes"), scratch_directory() as scratch:
            classes = _compile(java, compiler, jars, scratch)
            made = scratch / jar.parent.name
            made.mkdir()
            with zipfile.ZipFile(made / jar.name, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(classes.rglob("*.class")):
                    archive.write(path, path.relative_to(classes))
            move_into_cache(made, jar.parent)
    return [*jars, jar]


def look_for_classes(lock: str) -> Path | None:
    """Return the jar with this project's classes if it is in the cache; compile nothing."""
    jar = _classes_jar(lock)
    return jar if jar.is_file() else None


def _classes_jar(lock: str) -> Path:
    inputs = [*_sources(), java_lock_path("compiler"), java_lock_path(lock)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:12]
    return cache_directory() / f"java-classes-{digest}" / f"{OWN_CLASSES_PREFIX}{digest}.jar"


def _sources() -> list[Path]:
    return sorted(java_source_dir().rglob("*.java"))


def _compile(
    java: Path,
    compiler: Sequence[Path],
    jars: Sequence[Path],
    scratch: Path,
) -> Path:
    classes, log_file = scratch / "classes", scratch / "compiler.log"
    command = [
        *(str(java), "org.eclipse.jdt.internal.compiler.batch.Main"),
        *(f"-{MINIMUM_JAVA}", "-proc:none", "-warn:-serial", "-failOnWarning", "-Xemacs"),
        *("-classpath", os.pathsep.join(map(str, jars)), "-d", str(classes)),
        *map(str, _sources()),
    ]
    class_path = os.pathsep.join(map(str, compiler))
    if run_to_end("Java compiler", command, log_file, env={"CLASSPATH": class_path}) != 0:
        lines = log_file.read_text(errors="replace").splitlines()
        messages = [line for line in lines if re.search(": (error|warning): ", line)]
        reason = next(iter(messages or lines[-1:]), "the compiler gave no reason")
        raise EnvironmentFailure(f"the project's Java classes do not compile: {reason}")
    return classes
