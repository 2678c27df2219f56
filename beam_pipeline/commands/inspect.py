"""`beam-pipeline inspect`: its flags and its run."""

from __future__ import annotations

import argparse
import sys

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.settings.flags import add_shared
from beam_pipeline.settings.places import path_of

_DESCRIPTION = """\
Shows what an output file, or all files below a directory, contain: topic, windows, epochs, schema,
the Kafka offsets covered, and for each column nulls, smallest and largest value, and size. Of
Parquet files only the footers are read, of dead letters the lines.
"""
_EPILOG = """\
exit codes:
  0  every file can be read
  1  a file can't be read
  2  a flag is wrong

examples:
  %(prog)s data/output
  %(prog)s data/dead/dt=2026-11-24 --json
  %(prog)s s3://lake/orders --storage_config=store.yaml
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `inspect` and its help to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "path", metavar="PATH", help="a file or a directory, also by the URL of an object store"
    )
    add_shared(parser, "storage_config", "json")


def run(args: argparse.Namespace) -> int:
    """Run the command, print what it found, and return the exit code.

    Raises:
      UsageError: there is no such path, or nothing to inspect below it.
      EnvironmentFailure: the file can't be read.
    """
    # Imported here, so that help is immediate.
    from beam_pipeline.files.contents import UnreadableFile
    from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX
    from beam_pipeline.storage.paths import ObjectPath
    from beam_pipeline.terminal import show
    from beam_pipeline.tools.inspect import text as inspect_text
    from beam_pipeline.tools.inspect.inspection import inspect_file, inspect_tree

    path = path_of(args)
    has_suffix = path.suffix in (PARQUET_SUFFIX, JSON_LINES_SUFFIX)
    is_tree = not has_suffix if isinstance(path, ObjectPath) else path.is_dir()
    if is_tree:
        tree = inspect_tree(path)
        if args.json:
            sys.stdout.write(inspect_text.tree_json(tree))
        else:
            show(inspect_text.tree_text(tree))
        return 1 if tree.damaged else 0
    if not path.exists():
        raise UsageError(f"PATH={path}: no such file or directory")
    try:
        file = inspect_file(path)
    except UnreadableFile as error:
        raise EnvironmentFailure(f"{path} {error}") from None
    if args.json:
        sys.stdout.write(inspect_text.file_json(file))
    else:
        show(inspect_text.file_text(file))
    return 0
