"""`beam-pipeline fetch`: download what a run needs before it."""

from __future__ import annotations

import argparse

from beam_pipeline import resources
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.flink.engine import find_flink_tools
from beam_pipeline.runtime.prism.engine import find_local_tools
from beam_pipeline.runtime.programs.cache import cache_directory
from beam_pipeline.runtime.programs.java import fetch_jars
from beam_pipeline.runtime.programs.kernel import find_kernel
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.settings.flags import FLINK, add_shared

_DESCRIPTION = """\
Downloads Java, the jars and the runner that `run` and `demo` need, unless they are in the cache.
`run` and `demo` do the same at their first start; this command is for images, CI and machines that
will have no network. Only this command builds the native code of --compiled_contract.
"""
_EPILOG = """\
The cache is $BEAM_PIPELINE_CACHE, else $XDG_CACHE_HOME/beam-pipeline, else ~/.cache/beam-pipeline.

example:
  %(prog)s --engine=flink
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `fetch`, its description and an example to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_shared(parser, "engine")


def run(args: argparse.Namespace) -> int:
    """Download, with progress; return 0 when everything is in the cache.

    Raises:
      EnvironmentFailure: something can't be downloaded or built.
    """
    with SetupProgress() as progress:
        fetch_jars(resources.java_lock_path("kafka"), progress)
        try:
            find_kernel(progress)
        except EnvironmentFailure as error:
            print(f"warning: {error}; runs do without --compiled_contract")
    if args.engine == FLINK:
        find_flink_tools(with_cluster=True)
    else:
        archive = find_local_tools().class_archive()
        if archive.is_wanted:
            with SetupProgress() as progress, progress.step("Archiving Java classes"):
                archive.make()
    print(f"Everything that {args.engine} needs is in {cache_directory()}")
    return 0
