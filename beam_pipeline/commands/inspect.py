"""`beam-pipeline inspect`: its flags and its run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.settings.flags import add_shared

_DESCRIPTION = """\
Shows what an output file, or all files below a directory, say of themselves: topic, windows,
epochs, schema, the Kafka offsets that are covered, and per column nulls, smallest and largest value
and size. Parquet data is not read, only footers; of dead letters the lines.
"""
_EPILOG = """\
exit codes:
  0  every file can be read
  1  a file can't
  2  a flag is wrong

examples:
  %(prog)s data/output
  %(prog)s data/dead/dt=2026-11-24 --json
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags and its help."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("path", type=Path, metavar="PATH", help="a file, or a directory")
    add_shared(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Runs the command, prints what it found, and returns the exit code.

    Raises:
      UsageError: there is no such path, or nothing to inspect below it.
      EnvironmentFailure: the file can't be read.
    """
    # Imported here: the command line knows every command's flags, and runs one.
    from beam_pipeline.files.contents import UnreadableFile
    from beam_pipeline.terminal import show
    from beam_pipeline.tools.inspect import text as inspect_text
    from beam_pipeline.tools.inspect.inspection import inspect_file, inspect_tree

    if args.path.is_dir():
        tree = inspect_tree(args.path)
        if args.json:
            sys.stdout.write(inspect_text.tree_json(tree))
        else:
            show(inspect_text.tree_text(tree))
        return 1 if tree.damaged else 0
    if not args.path.exists():
        raise UsageError(f"PATH={args.path}: no such file or directory")
    try:
        file = inspect_file(args.path)
    except UnreadableFile as error:
        raise EnvironmentFailure(f"{args.path} {error}") from None
    if args.json:
        sys.stdout.write(inspect_text.file_json(file))
    else:
        show(inspect_text.file_text(file))
    return 0
