"""`beam-pipeline table status|compact|expire`: flags and runs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import orjson

from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.settings.flags import add_shared

if TYPE_CHECKING:
    from rich.console import RenderableType

    from beam_pipeline.settings.table import TableJob
    from beam_pipeline.tables.committer import Published
    from beam_pipeline.tables.compaction import Compacted
    from beam_pipeline.tables.status import TableState

_DEFAULT_TARGET_BYTES = 128 * 1024 * 1024
_DEFAULT_KEEP = 50
_DEFAULT_MAX_AGE_SECONDS = 5 * 86_400
_DEFAULT_GRACE_SECONDS = 86_400
_LEAST_GRACE_SECONDS = 600

_DESCRIPTION = """\
Looks after the Iceberg table of a run with --table, and after its table of dead letters. A run
does all of this by itself while it goes on; the commands are for tables whose run has ended, for
what the run leaves small, and for a look. They may run beside a pipeline, and may be killed at any
time.
"""
_STATUS_DESCRIPTION = """\
Shows both tables: newest snapshot, time since the last commit, files, rows and bytes, small files,
kept snapshots and who made them, files that no snapshot has, and files that have landed and are not
in the table yet.
"""
_COMPACT_DESCRIPTION = """\
Merges the small files of closed windows, in snapshots of up to 1,000 files each. Each snapshot
replaces files by larger ones with the same rows; queries that read the one before are not
disturbed. Files of different topics, and of different days in a table that days partition, are not
merged. Rows, offsets and what reconcile finds do not change.

A window is closed once its end has passed, by this machine's clock. What comes late for it is
merged the next time. The old files stay as long as a snapshot has them, see `table expire`.
"""
_EXPIRE_DESCRIPTION = """\
Expires snapshots beyond the newest --keep, and those older than --max_age_seconds; the newest one,
branches and tags stay. Then it removes the table's own files that no snapshot has and that are
older than --grace_seconds: what merged files have replaced, and what killed commits left. Files
below --output_dir outside of _table, or objects where they landed, are never removed.
"""
_EXAMPLES = """
examples:
  %(prog)s --table=lake.orders --output_dir=data/output{more}
  %(prog)s --table=lake.orders --output_dir=s3://lake/orders --catalog=catalog.yaml
"""
_EXIT_CODES = """\
exit codes:
  0  done, or nothing to do
  1  the catalog or the storage does not answer
  2  a flag is wrong, or there is no such table
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the three commands, their flags and their help to `parser`."""
    parser.description = _DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="table_command", required=True, metavar="COMMAND")

    status = _add_command(commands, "status", "show what the tables are like", _STATUS_DESCRIPTION)
    add_shared(status, "json")
    status.set_defaults(table_run=_run_status)

    compact = _add_command(commands, "compact", "merge small files", _COMPACT_DESCRIPTION)
    compact.add_argument(
        "--target_file_bytes",
        type=int,
        default=_DEFAULT_TARGET_BYTES,
        metavar="BYTES",
        help="size of a merged file at most; files above half of it are not merged "
        "(default: %(default)s)",
    )
    _add_dry_run(compact)
    add_shared(compact, "json")
    compact.set_defaults(table_run=_run_compact)

    expire = _add_command(
        commands, "expire", "expire snapshots, and remove unused files", _EXPIRE_DESCRIPTION
    )
    expire.add_argument(
        "--keep",
        type=int,
        default=_DEFAULT_KEEP,
        metavar="N",
        help="how many snapshots stay at most, the newest ones (default: %(default)s)",
    )
    expire.add_argument(
        "--max_age_seconds",
        type=float,
        default=_DEFAULT_MAX_AGE_SECONDS,
        metavar="SECONDS",
        help="snapshots that are older expire (default: %(default)s, five days)",
    )
    expire.add_argument(
        "--grace_seconds",
        type=float,
        default=_DEFAULT_GRACE_SECONDS,
        metavar="SECONDS",
        help="files that are younger stay, since a commit or a query may still be at them; "
        f"{_LEAST_GRACE_SECONDS} or more (default: %(default)s, a day)",
    )
    _add_dry_run(expire)
    add_shared(expire, "json")
    expire.set_defaults(table_run=_run_expire)


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
    description: str,
) -> argparse.ArgumentParser:
    more = "" if name == "status" else " --dry_run"
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=description,
        epilog=_EXIT_CODES + _EXAMPLES.format(more=more),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--table",
        metavar="NAMESPACE.NAME",
        required=True,
        help="the table of the run; with it goes NAMESPACE.NAME__dead_letters",
    )
    add_shared(parser, "catalog", "output_dir", "dead_letter_dir", "storage_config")
    return parser


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry_run", action="store_true", help="print what would be done, and change nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command that was named, and return the exit code.

    Raises:
        UsageError: a flag is wrong, pyiceberg is missing, or there is no such table.
        EnvironmentFailure: the catalog or the storage does not answer.
    """
    code: int = args.table_run(args)
    return code


# The commands import what they need when they run, so that help is immediate.


def _run_status(args: argparse.Namespace) -> int:
    from beam_pipeline.tables.status import state_of
    from beam_pipeline.terminal import show

    with _opened(args) as tables:
        states = [state_of(published) for published in tables]
    if args.json:
        _print_json({"tables": [state.to_json() for state in states]})
    else:
        show(_states_text(states))
    return 0


def _run_compact(args: argparse.Namespace) -> int:
    if args.target_file_bytes < 1:
        raise UsageError(f"--target_file_bytes={args.target_file_bytes}: must be 1 or more")
    from beam_pipeline.tables.compaction import Rules, compact_all, compaction_plan
    from beam_pipeline.terminal import progress_bar

    rules = Rules(datetime.now(timezone.utc), target_bytes=args.target_file_bytes)
    results = {}
    with _opened(args) as tables:
        for published in tables:
            table, landed = published.table, published.landed
            result = compaction_plan(table, landed, rules)
            if not args.dry_run and result.files_before:
                with progress_bar(f"Compacting {table.name}", result.files_before) as progress:
                    result = compact_all(table, landed, rules, progress)
            results[table.name] = result
    if args.json:
        tables_json = {name: _compacted_json(result) for name, result in results.items()}
        _print_json({"dry_run": args.dry_run, "tables": tables_json})
    else:
        for name, result in results.items():
            _say(name, _compacted_text(result, args.dry_run))
            for path in result.left_alone:
                _say(name, f"skipped: {path}: its footer and its rows differ; see reconcile")
    return 0


def _run_expire(args: argparse.Namespace) -> int:
    if args.keep < 1:
        raise UsageError(f"--keep={args.keep}: must be 1 or more, the newest snapshot stays")
    if not args.max_age_seconds >= 0:
        raise UsageError(f"--max_age_seconds={args.max_age_seconds:g}: must be 0 or more")
    if not args.grace_seconds >= _LEAST_GRACE_SECONDS:
        raise UsageError(
            f"--grace_seconds={args.grace_seconds:g}: must be {_LEAST_GRACE_SECONDS} or more, "
            "since a commit that goes on needs files that no snapshot has yet"
        )
    results = {}
    with _opened(args) as tables:
        for published in tables:
            table = published.table
            if args.dry_run:
                table.read()
                snapshots = (
                    0
                    if table.table is None
                    else len(table.expirable(args.keep, args.max_age_seconds))
                )
                files = len(table.unused_files(args.grace_seconds))
            else:
                snapshots = table.expire(args.keep, args.max_age_seconds)
                files = table.sweep(args.grace_seconds)
            results[table.name] = {"snapshots": snapshots, "files": files}
    if args.json:
        _print_json({"dry_run": args.dry_run, "tables": results})
    else:
        from beam_pipeline.terminal import plural

        expired, removed = (
            ("would expire", "would remove") if args.dry_run else ("expired", "removed")
        )
        for name, counts in results.items():
            _say(
                name,
                f"{expired} {plural(counts['snapshots'], 'snapshot')}, "
                f"{removed} {plural(counts['files'], 'unused file')}",
            )
    return 0


@contextlib.contextmanager
def _opened(args: argparse.Namespace) -> Iterator[Sequence[Published]]:
    """Open the tables that the flags name.

    Raises:
        UsageError: a flag is wrong, pyiceberg is missing, or there is no such table.
        EnvironmentFailure: the catalog or the storage does not answer.
    """
    from beam_pipeline.runtime.table_committer import check_table
    from beam_pipeline.settings.config import dead_letter_dir_of
    from beam_pipeline.settings.places import check_place
    from beam_pipeline.settings.table import TableJob, table_settings

    check_place("--output_dir", args.output_dir)
    check_place("--dead_letter_dir", args.dead_letter_dir)
    settings = table_settings(vars(args))
    assert settings is not None
    check_table(settings)
    job = TableJob(
        settings,
        args.output_dir,
        dead_letter_dir_of(args.dead_letter_dir, args.output_dir),
        storage_config=None if args.storage_config is None else str(args.storage_config),
    )
    yield from _tables_of(job)


def _tables_of(job: TableJob) -> Iterator[Sequence[Published]]:
    from beam_pipeline.storage.protocol import StorageAwayError
    from beam_pipeline.tables.catalogs import embedded_file, properties_of
    from beam_pipeline.tables.committer import open_tables
    from beam_pipeline.tables.connect import words_of
    from beam_pipeline.tables.table import PlanAgainError

    logging.disable(logging.CRITICAL)  # what fails is told in one line
    embedded = embedded_file(job)
    if embedded is not None and not embedded.is_file():
        raise UsageError(
            f"--output_dir={job.output_dir} has no embedded catalog ({embedded}): name the "
            "directory of a run with --table, or the --catalog of the run"
        )
    try:
        tables = open_tables(job, adds_files=False)
        for published in tables:
            published.table.read()
        if all(published.table.table is None for published in tables):
            raise UsageError(
                f"--table={job.table.name}: the catalog has no such table; name the table, the "
                "--output_dir and the --catalog of the run"
            )
        yield tables
    except PlanAgainError as error:
        raise EnvironmentFailure(
            f"--table={job.table.name}: other commits came first again and again ({error}); start "
            "it again"
        ) from None
    except (PipelineError, StorageAwayError):
        raise
    except Exception as error:
        words = words_of(error, properties_of(job))
        raise EnvironmentFailure(
            f"--table={job.table.name}: {words}; check that the catalog and the storage answer"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def _compacted_json(result: Compacted) -> dict[str, Any]:
    return {
        "snapshots": result.snapshots,
        "files_before": result.files_before,
        "files_after": result.files_after,
        "rows": result.rows,
        "bytes_before": result.bytes_before,
        "bytes_after": result.bytes_after,
        "left_alone": result.left_alone,
    }


def _compacted_text(result: Compacted, dry_run: bool) -> str:
    if not result.files_before:
        return "nothing to merge"
    size = f"{result.bytes_before:,} bytes"
    if not dry_run:
        size += f" to {result.bytes_after:,}"
    return (
        f"{'would merge' if dry_run else 'merged'} {result.files_before:,} files into "
        f"{result.files_after:,}: {result.rows:,} rows, {size}"
    )


def _states_text(states: Sequence[TableState]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from beam_pipeline.terminal import printable

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    for _ in states:
        grid.add_column(overflow="fold")
    columns = [_facts(state) for state in states]
    for name in columns[0]:
        values = [Text(printable(facts.get(name, ""))) for facts in columns]
        grid.add_row(Text(name, "bold"), *values)
    return grid


def _facts(state: TableState) -> dict[str, str]:
    from beam_pipeline.terminal import plural
    from beam_pipeline.times import rfc3339_of_ms

    age = state.age_seconds()
    committed = "never"
    if state.committed_ms is not None and age is not None:
        committed = f"{rfc3339_of_ms(state.committed_ms)}, {plural(round(age), 'second')} ago"
    kept = f"{state.snapshots:,}"
    if state.oldest_ms is not None:
        kept += f", since {rfc3339_of_ms(state.oldest_ms)}"
    foreign = ", ".join(map(str, state.foreign_snapshots)) or "none"
    return {
        "table": state.name,
        "location": state.location or "not made yet",
        "snapshot": "none" if state.snapshot_id is None else f"{state.snapshot_id}",
        "last commit": committed,
        "files": f"{state.files:,}, {state.size_bytes:,} bytes; {state.small_files:,} small",
        "rows": f"{state.rows:,}",
        "kept snapshots": kept,
        "by other writers": foreign,
        "metadata file": f"{state.metadata_bytes:,} bytes",
        "unused files": f"{state.unused_files:,}, {state.unused_bytes:,} bytes",
        "not in it yet": plural(state.waiting_files, "landed file"),
    }


def _say(name: str, text: str) -> None:
    from beam_pipeline.terminal import printable

    print(f"{printable(name)}: {printable(text)}")


def _print_json(document: dict[str, Any]) -> None:
    from beam_pipeline.terminal import printable_json

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    sys.stdout.write(printable_json(orjson.dumps(document, option=options).decode()))
