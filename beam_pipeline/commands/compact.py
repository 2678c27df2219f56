"""`beam-pipeline compact`: its flags and its run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from beam_pipeline.commands.launch import end_earlier_jobs
from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.flink.job_record import job_records
from beam_pipeline.runtime.lease import hold_lease
from beam_pipeline.settings.flags import add_shared
from beam_pipeline.settings.places import check_place
from beam_pipeline.storage.urls import is_url

if TYPE_CHECKING:
    from rich.text import Text

    from beam_pipeline.tools.compact.run import CompactionReport

_DESCRIPTION = """\
Merges the small Parquet files of closed windows, one directory (an hour) at a time. Files of one
topic, one schema and the same columns become one file, whose footer covers all their offsets. Rows,
offsets and the result of reconcile do not change.

It holds the lease of the output directory, so stop the pipeline first; its next start resumes from
the files. Files of a Flink job that may be resumed from a savepoint, or of a run that did not end
cleanly, are skipped until the next start.

It may be killed at any time. A directory and its compacted copy are exchanged atomically
(renameat2, on ext4, XFS, Btrfs or tmpfs under Linux; other file systems are refused and nothing is
changed). A reader that lists a directory sees each row exactly once, before and after. In an object
store this can't be done: the URL of one is refused.
"""
_EPILOG = """\
exit codes:
  0  done, or nothing to do
  1  a pipeline is running, or the file system can't exchange directories
  2  a flag is wrong

example:
  %(prog)s --output_dir=data/output --dry_run
"""

_LEFT_ALONE_SHOWN = 5


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `compact` and its help to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_shared(parser, "output_dir")
    parser.add_argument(
        "--target_file_bytes",
        type=int,
        default=128 * 1024 * 1024,
        metavar="BYTES",
        help="size of a merged file; files above half of it are not merged (default: %(default)s)",
    )
    add_shared(parser, "parquet_codec")
    parser.add_argument(
        "--dry_run", action="store_true", help="print what would be done, and change nothing"
    )
    add_shared(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Run the command, print what was done, and return the exit code.

    Raises:
      UsageError, EnvironmentFailure: see `compact`; or a pipeline holds the directory.
    """
    if args.target_file_bytes < 1:
        raise UsageError(f"--target_file_bytes={args.target_file_bytes}: must be 1 or more")
    check_place("--output_dir", args.output_dir)
    if is_url(args.output_dir):
        raise UsageError(
            f"--output_dir={args.output_dir}: files in an object store are not merged. No request "
            "changes several keys at once, so a reader that lists the prefix meanwhile would see "
            "rows twice or not at all. For larger files give a longer --window_seconds, or fewer "
            "--num_shards"
        )
    output_dir = Path(args.output_dir)
    if not output_dir.is_dir():
        raise UsageError(
            f"--output_dir={output_dir} is not a directory; name the one the pipeline wrote"
        )
    # Imported here, so that help is immediate.
    from beam_pipeline.terminal import show
    from beam_pipeline.tools.compact.run import compact

    with hold_lease(output_dir, "--output_dir") as lease:
        if not args.dry_run:
            end_earlier_jobs(output_dir)
        report = compact(
            output_dir,
            live_epochs={record.epoch for record in job_records(output_dir)},
            target_bytes=args.target_file_bytes,
            codec=args.parquet_codec,
            dry_run=args.dry_run,
            keep_lease=lease.beat,
        )
    if args.json:
        sys.stdout.write(report_json(report, args.dry_run))
    else:
        show(report_text(report, args.dry_run))
    return 0


def report_text(report: CompactionReport, dry_run: bool) -> Text:
    """Return the report as text."""
    from rich.text import Text

    from beam_pipeline.terminal import printable

    if not report.files_before:
        summary = "Nothing to merge."
    else:
        sizes = f"{report.bytes_before:,} bytes"
        if report.bytes_after is not None:
            sizes += f" to {report.bytes_after:,}"
        summary = (
            f"{'Would merge' if dry_run else 'Merged'} {report.files_before:,} files in "
            f"{report.directories:,} {'directory' if report.directories == 1 else 'directories'} "
            f"into {report.files_after:,}: {report.rows:,} rows, {sizes}."
        )
    lines = [summary]
    for skipped in report.left_alone[:_LEFT_ALONE_SHOWN]:
        lines.append(f"skipped: {printable(str(skipped.path))}: {printable(skipped.reason)}")
    if len(report.left_alone) > _LEFT_ALONE_SHOWN:
        more = len(report.left_alone) - _LEFT_ALONE_SHOWN
        lines.append(f"and {more:,} more skipped; --json lists them")
    return Text("\n".join(lines))


def report_json(report: CompactionReport, dry_run: bool) -> str:
    """Return the report as one line-terminated JSON object."""
    document = {
        "dry_run": dry_run,
        "directories": report.directories,
        "files_before": report.files_before,
        "files_after": report.files_after,
        "rows": report.rows,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "left_alone": [
            {"path": str(skipped.path), "reason": skipped.reason} for skipped in report.left_alone
        ],
    }
    from beam_pipeline.terminal import printable_json

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return printable_json(orjson.dumps(document, option=options).decode())
