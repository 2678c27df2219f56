"""`beam-pipeline store`: the embedded S3 store in the foreground."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from beam_pipeline.commands.launch import logs_in, stop_on_signals
from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.runtime.programs.store import EmbeddedStore
from beam_pipeline.runtime.programs.versitygw import find_versitygw
from beam_pipeline.settings.flags import add_shared

DEFAULT_STORE_DIRECTORY = Path("data/store")
DEFAULT_STORE_PORT = 7070
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_DESCRIPTION = """\
Runs an S3 store for a machine that has none: versitygw over a directory, on loopback, until Ctrl-C.
An object is a plain file below DIR/buckets. The keys are in DIR/credentials.
"""
_EPILOG = """\
example:
  %(prog)s --port=7070 --directory=data/store --buckets=demo,lake
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `store`, its description and its example to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_STORE_PORT,
        help="loopback port; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        default=DEFAULT_STORE_DIRECTORY,
        help="directory that keeps the objects and the keys (default: %(default)s)",
    )
    parser.add_argument(
        "--buckets",
        metavar="NAME,…",
        default="demo",
        help="buckets to make where they are missing (default: %(default)s)",
    )
    add_shared(parser, "log_dir")


def run(args: argparse.Namespace) -> int:
    """Run the store until a signal; return the exit code.

    Raises:
      PipelineError: what the user can mend.
    """
    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port={args.port}: must be 0 to 65535")
    buckets = [name.strip() for name in args.buckets.split(",") if name.strip()]
    if not buckets:
        raise UsageError("--buckets is empty: name one bucket or more, separated by commas")
    for bucket in buckets:
        check_bucket("--buckets", bucket)
    stop = stop_on_signals()
    logs = logs_in(args.log_dir)
    with SetupProgress() as progress:
        binary = find_versitygw(progress)
    store = EmbeddedStore(args.directory.absolute(), binary, logs.file("store"), args.port)
    store.start(*buckets)
    try:
        Console().print(
            f"S3 store is up at {store.url}; Ctrl-C stops it (log: {logs.file('store')}). "
            f"Elsewhere:\n  {export_text(store.environment)}\n  ./run_direct.sh inspect s3://{buckets[0]}",
            highlight=False,
            soft_wrap=True,
        )
        while not stop.wait(0.5):
            if not store.service.process.alive:
                raise store.service.process.failure("ended")
    finally:
        store.stop(3.0)
    return 0


def export_text(environment: Mapping[str, str]) -> str:
    """Return the command by which a shell finds the store and its keys."""
    words = (f"{name}={shlex.quote(value)}" for name, value in environment.items())
    return f"export {' '.join(words)}"


def check_bucket(flag: str, bucket: str) -> None:
    """Refuse what is no name for a bucket.

    Raises:
      UsageError: it is not.
    """
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(
            f"{flag}={bucket}: no name for a bucket; give 3 to 63 small letters, digits, dots and "
            "dashes, beginning and ending with a letter or digit"
        )
