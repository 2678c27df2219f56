"""`beam-pipeline compact`: its flags and its run."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import orjson

from beam_pipeline.commands.launch import end_earlier_jobs
from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.flink.job_record import job_records
from beam_pipeline.runtime.lease import hold_lease
from beam_pipeline.settings.flags import add_shared

if TYPE_CHECKING:
    from rich.text import Text

    from beam_pipeline.tools.compact.run import CompactionReport

_DESCRIPTION = """\
Puts the small Parquet files of closed windows together, one directory (an hour) at a time: files of
one topic, one schema and the same columns become one, whose footer covers what theirs did. Rows,
offsets and the verdict of reconcile stay as they are.

It holds the output directory's lease, so no pipeline may be running; the pipeline's next start goes
on where its files end. Files of a Flink job that may be resumed from a savepoint, or of a run that
did not end cleanly, are left alone until the next start.

Kill it at any moment: a directory and its compacted form change places in one step of the file
system (renameat2, so ext4, XFS, Btrfs or tmpfs on Linux; others are refused with nothing changed),
so a reader that lists a directory sees each row once, before and after.
"""
_EPILOG = """\
exit codes:
  0  done, or nothing to do
  1  a pipeline is running, or the file system can't
  2  a flag is wrong

example:
  %(prog)s --output_dir=data/output --dry_run
"""

_LEFT_ALONE_SHOWN = 5


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags and its help."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_shared(parser, "output_dir")
    parser.add_argument(
        "--target_file_bytes",
        type=int,
        default=128 * 1024 * 1024,
        metavar="BYTES",
        help="size up to which files are put together; those above half of it are left as they "
        "are (default: %(default)s)",
    )
    add_shared(parser, "parquet_codec")
    parser.add_argument("--dry_run", action="store_true", help="tell what would be done, and end")
    add_shared(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Runs the command, tells what was done, and returns the exit code.

    Raises:
      UsageError, EnvironmentFailure: see `compact`; or a pipeline holds the directory.
    """
    if args.target_file_bytes < 1:
        raise UsageError(f"--target_file_bytes={args.target_file_bytes}: must be 1 or more")
    if not args.output_dir.is_dir():
        raise UsageError(
            f"--output_dir={args.output_dir} is not a directory; name the one the pipeline wrote"
        )
    # Imported here: the command line knows every command's flags, and runs one.
    from beam_pipeline.terminal import show
    from beam_pipeline.tools.compact.run import compact

    with hold_lease(args.output_dir, "--output_dir"):
        if not args.dry_run:
            end_earlier_jobs(args.output_dir)
        report = compact(
            args.output_dir,
            live_epochs={record.epoch for record in job_records(args.output_dir)},
            target_bytes=args.target_file_bytes,
            codec=args.parquet_codec,
            dry_run=args.dry_run,
        )
    if args.json:
        sys.stdout.write(report_json(report, args.dry_run))
    else:
        show(report_text(report, args.dry_run))
    return 0


def report_text(report: CompactionReport, dry_run: bool) -> Text:
    """The report for people."""
    from rich.text import Text

    from beam_pipeline.terminal import printable

    if not report.files_before:
        told = "Nothing to put together."
    else:
        sizes = f"{report.bytes_before:,} bytes"
        if report.bytes_after is not None:
            sizes += f" to {report.bytes_after:,}"
        told = (
            f"{'Would put' if dry_run else 'Put'} {report.files_before:,} files of "
            f"{report.directories:,} {'directory' if report.directories == 1 else 'directories'} "
            f"together into {report.files_after:,}: {report.rows:,} rows, {sizes}."
        )
    lines = [told]
    for one in report.left_alone[:_LEFT_ALONE_SHOWN]:
        lines.append(f"left alone: {printable(str(one.path))}: {printable(one.reason)}")
    if len(report.left_alone) > _LEFT_ALONE_SHOWN:
        more = len(report.left_alone) - _LEFT_ALONE_SHOWN
        lines.append(f"and {more:,} more left alone; --json has them")
    return Text("\n".join(lines))


def report_json(report: CompactionReport, dry_run: bool) -> str:
    """The report for machines: one JSON object and a line's end."""
    document = {
        "dry_run": dry_run,
        "directories": report.directories,
        "files_before": report.files_before,
        "files_after": report.files_after,
        "rows": report.rows,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "left_alone": [{"path": str(one.path), "reason": one.reason} for one in report.left_alone],
    }
    from beam_pipeline.terminal import printable_json

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return printable_json(orjson.dumps(document, option=options).decode())
