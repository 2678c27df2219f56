"""`beam-pipeline schema infer|show|check`: flags and runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.settings.flags import ASSERT, add_shared

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

    from beam_pipeline.schemas.inference import Inference

_DESCRIPTION = "JSON Schemas of events: propose one, see its columns, compare two."

_INFER_DESCRIPTION = """\
Prints a JSON Schema for the events of a file, and on stderr what it leaves out: values of types
that a field rarely has. Review it before you use it: add what the samples do not show, such as
bounds and further values.
"""
_SHOW_DESCRIPTION = "Prints the Arrow columns that files get with a schema, and the schema's hash."
_CHECK_DESCRIPTION = """\
Checks whether the schema NEW may replace OLD, and prints why not:

  backward  NEW allows every event that OLD allows: the pipeline can be started with NEW while
            events written under OLD are still in the topic
  forward   OLD allows every event that NEW allows: producers may be upgraded first
  dataset   columns of the same name have the same type and encoding, so files of both are
            one dataset

What can't be decided counts as incompatible. A field that NEW names and OLD does not is printed,
and counts only with --strict: it is incompatible if events already have a field of that name.
"""
_CHECK_EPILOG = """\
exit codes:
  0  NEW may replace OLD, as --compatibility requires
  1  it may not
  2  a flag or a file is wrong

example:
  %(prog)s order.v1.json order.v2.json --compatibility=full
"""

MODES = ("backward", "forward", "full", "none")
_BAD_LINES_SHOWN = 3
_MIXED_SHOWN = 50
_DEFAULT_MIN_SHARE = 0.99
"""A field with fewer than 100 values keeps all its types. What is left out of larger samples is at
most one value of a hundred, as broken lines and old producers make them."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the three commands, their flags and their help to `parser`."""
    parser.description = _DESCRIPTION
    commands = parser.add_subparsers(dest="schema_command", required=True, metavar="COMMAND")

    infer = _add_command(commands, "infer", "propose a schema from sample events")
    infer.description = _INFER_DESCRIPTION
    infer.add_argument("file", metavar="FILE", help="JSON lines; - is standard input")
    infer.add_argument(
        "--max_enum_values",
        type=int,
        default=0,
        metavar="N",
        help="propose an enum for strings of at most N values, each seen more than once "
        "(default: %(default)s, no enums)",
    )
    infer.add_argument(
        "--min_share",
        type=float,
        default=_DEFAULT_MIN_SHARE,
        metavar="SHARE",
        help="propose for each field the most frequent types that together have this share of its "
        "values; other values are left out, and reported (default: %(default)s; 1 allows all)",
    )
    infer.set_defaults(schema_run=_run_infer)

    show = _add_command(commands, "show", "print the Arrow columns that files get")
    show.description = _SHOW_DESCRIPTION
    show.add_argument("file", metavar="FILE", help="a JSON Schema, JSON or YAML")
    add_shared(show, "formats", "max_columns", "reference_dir", "kafka_columns", "json")
    show.set_defaults(schema_run=_run_show)

    check = _add_command(commands, "check", "check whether one schema may replace another")
    check.description = _CHECK_DESCRIPTION
    check.epilog = _CHECK_EPILOG
    check.add_argument("old", metavar="OLD", help="the schema in use")
    check.add_argument("new", metavar="NEW", help="the schema that is to replace it")
    check.add_argument(
        "--compatibility",
        choices=MODES,
        default="backward",
        help="what the exit code requires, beside one dataset; none requires nothing "
        "(default: %(default)s)",
    )
    check.add_argument(
        "--strict",
        action="store_true",
        help="a newly named field is incompatible too, since events may have it already",
    )
    add_shared(check, "formats", "max_columns", "json")
    check.set_defaults(schema_run=_run_check)


def run(args: argparse.Namespace) -> int:
    """Run the command that was named, and return the exit code.

    Raises:
      UsageError: a flag or a file is wrong.
      EnvironmentFailure: a file can't be read.
    """
    code: int = args.schema_run(args)
    return code


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=what,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _run_infer(args: argparse.Namespace) -> int:
    from beam_pipeline.schemas.inference import infer_schema
    from beam_pipeline.terminal import printable

    if args.max_enum_values < 0:
        raise UsageError(f"--max_enum_values={args.max_enum_values}: must be 0 or more")
    if not 0 <= args.min_share <= 1:
        raise UsageError(f"--min_share={args.min_share:g}: must be from 0 to 1")
    bad_lines: list[str] = []
    counts = {"events": 0}
    try:
        with contextlib.ExitStack() as stack:
            file = sys.stdin.buffer
            if args.file != "-":
                file = stack.enter_context(Path(args.file).open("rb"))
            samples = _samples(file, bad_lines, counts)
            inference = infer_schema(samples, args.max_enum_values, args.min_share)
    except OSError as error:
        raise UsageError(f"FILE={args.file}: {error.strerror}; give a file of JSON lines") from None
    for bad_line in bad_lines[:_BAD_LINES_SHOWN]:
        print(f"skipped: {printable(bad_line)}", file=sys.stderr)
    if len(bad_lines) > _BAD_LINES_SHOWN:
        print(f"and {len(bad_lines) - _BAD_LINES_SHOWN:,} more lines skipped", file=sys.stderr)
    if not counts["events"]:
        raise EnvironmentFailure(f"FILE={args.file}: no line is a JSON event")
    _write_json(inference.schema)
    for line in _about_shares(inference):
        print(printable(line), file=sys.stderr)
    about_times = printable(_about_times(inference))
    print(f"from {counts['events']:,} events; {about_times}", file=sys.stderr)
    return 0


def _samples(
    file: IO[bytes], bad_lines: list[str], counts: dict[str, int]
) -> Iterator[tuple[int, Any]]:
    """Yield line and event of a file; describe lines that are no events in `bad_lines`."""
    from beam_pipeline.schemas import Judge

    judge = Judge({}, max_value_bytes=2**62)
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        event, failure = judge.judge(line.rstrip(b"\r\n"))
        if failure is None:
            counts["events"] += 1
            yield number, event
        else:
            bad_lines.append(f"line {number}: {failure.code.value}: {failure.message}")


def _about_shares(inference: Inference) -> Iterator[str]:
    """Yield lines on the fields with values of several kinds, and on what was left out."""
    left_out = 0
    for number, (path, kinds) in enumerate(inference.mixed):
        total = sum(kind.values for kind in kinds)
        parts = []
        for position, kind in enumerate(kinds):
            part = f"{kind.kind} {_percent(kind.values, total)}"
            if position or kind.is_left_out:
                part += f", first at line {kind.first_line}"
            if kind.is_left_out:
                left_out += kind.values
                part += f" (left out: {kind.values:,})"
            parts.append(part)
        if number < _MIXED_SHOWN:
            yield f"{path}: {', '.join(parts)}"
    more = len(inference.mixed) - _MIXED_SHOWN
    if more > 0:
        yield f"and {more:,} more fields with values of several types"
    if left_out:
        yield (
            f"left out: {left_out:,} values, whose events would be dead letters; --min_share=1 "
            "allows them all"
        )
    if inference.unnamed:
        yield (
            f"not named in the schema: {', '.join(map(repr, inference.unnamed))}; the pipeline or "
            "another field has this name, in some case, so these fields are kept in the column of "
            "unnamed fields"
        )


def _percent(part: int, whole: int) -> str:
    """Return a share with one digit; 0.0 and 100.0 are for none and all only.

    >>> _percent(6, 1000), _percent(1, 50_000), _percent(49_999, 50_000)
    ('0.6 %', 'under 0.1 %', 'over 99.9 %')
    """
    tenths = round(part / whole * 1000)
    if tenths == 0:
        return "under 0.1 %"
    if tenths == 1000 and part < whole:
        return "over 99.9 %"
    return f"{tenths / 10:g} %"


def _about_times(inference: Inference) -> str:
    schema, times = inference.schema, inference.times
    if "x-event-time" in schema:
        missing = inference.without_time
        dead = f"; {missing:,} events do not have it and would be dead letters" if missing else ""
        return f"event time is {schema['x-event-time']!r} (x-event-time){dead}"
    if times:
        return f"the event time may be {', '.join(times)}: name one as x-event-time"
    return "no field is a date-time in the events: name one, or run with --window_by=append_time"


def _write_json(document: dict[str, Any]) -> None:
    from beam_pipeline.terminal import printable_json

    sys.stdout.write(printable_json(json.dumps(document, indent=2, ensure_ascii=False)) + "\n")


def _run_show(args: argparse.Namespace) -> int:
    from beam_pipeline.compiled.plan import compile_plan, describe
    from beam_pipeline.schemas import load_contract
    from beam_pipeline.schemas.contract import file_schema
    from beam_pipeline.settings.config import kafka_columns
    from beam_pipeline.terminal import printable, show
    from beam_pipeline.transforms import Enrich, Normalize

    contract = load_contract(args.file, "FILE", args.max_columns, args.formats == ASSERT)
    normalized = Normalize(contract).output_schema(contract.batch_schema)
    enriched = Enrich(contract, args.reference_dir).output_schema(normalized)
    schema = file_schema(enriched, kafka_columns(args.kafka_columns))
    places = contract.coercion.places if contract.coercion else ()
    coerced = {place.path: list(place.names) for place in places}
    compiled = describe(compile_plan(contract))
    if args.json:
        document = {
            "id": contract.ref.id,
            "sha256": contract.ref.sha256,
            "event_time_field": contract.event_time_field,
            "event_time_unit": contract.event_time_unit,
            "coerced": coerced,
            "columns": [{"name": column.name, "type": str(column.type)} for column in schema],
            "notes": list(contract.notes),
            "compiled": compiled,
        }
        _write_json(document)
    else:
        columns = dict(contract.columns)
        show(_columns_table(schema, columns, contract.event_time_field, coerced))
        name = printable(contract.ref.id or "(no $id)")
        print(f"schema {name} sha256 {contract.ref.sha256}")
        for note in [*contract.notes, *compiled]:
            print(printable(note))
    return 0


def _columns_table(
    schema: pa.Schema, nodes: dict[str, Any], event_time: str | None, coerced: dict[str, list[str]]
) -> Table:
    from rich.table import Table
    from rich.text import Text

    from beam_pipeline.schemas.contract import KAFKA_FIELDS, RIDE_ALONG_SOURCES
    from beam_pipeline.terminal import printable

    kafka = {column.name for column in KAFKA_FIELDS}
    table = Table()
    for title in ("column", "Arrow type", "what"):
        table.add_column(title, overflow="fold")
    for column in schema:
        for path, kind, node in _places(column.name, column.type, nodes.get(column.name)):
            if path == event_time:
                what = "the event time"
            elif column.name in kafka:
                what = "where the row is from"
            elif column.name in RIDE_ALONG_SOURCES:
                what = "of the Kafka record"
            elif _is_json_text(node):
                what = "JSON text"
            elif path.split(".")[-1].lstrip("_") == "extra" and node is None:
                what = "JSON text of the fields that are not named"
            elif column.name not in nodes:
                what = "added by x-enrich"
            else:
                what = ""
            if path in coerced:
                what = f"{what}{', ' if what else ''}coerced: {', '.join(coerced[path])}"
            table.add_row(Text(printable(path)), Text(kind), what)
    return table


def _places(path: str, kind: pa.DataType, node: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (path, type, node) of a column and of the columns in it."""
    import pyarrow as pa

    from beam_pipeline.schemas.nodes import ListOf, MapOf, Struct

    if pa.types.is_struct(kind):
        yield path, "struct", node
        fields = dict(node.fields) if isinstance(node, Struct) else {}
        for child in kind:
            yield from _places(f"{path}.{child.name}", child.type, fields.get(child.name))
    elif pa.types.is_list(kind):
        yield path, "list", node
        items = node.items if isinstance(node, ListOf) else None
        yield from _places(f"{path}[]", kind.value_type, items)
    elif pa.types.is_map(kind):
        yield path, "map of string", node
        values = node.values if isinstance(node, MapOf) else None
        yield from _places(f"{path}{{}}", kind.item_type, values)
    else:
        yield path, "dictionary of string" if pa.types.is_dictionary(kind) else str(kind), node


def _is_json_text(node: Any) -> bool:
    from beam_pipeline.schemas.nodes import JSON_TEXT

    return bool(node == JSON_TEXT)


def _run_check(args: argparse.Namespace) -> int:
    from beam_pipeline.schemas import load_contract
    from beam_pipeline.schemas.compatibility import Reason, reasons_against
    from beam_pipeline.schemas.dataset import incompatible_columns
    from beam_pipeline.terminal import printable

    asserts_formats = args.formats == ASSERT
    old = load_contract(args.old, "OLD", args.max_columns, asserts_formats)
    new = load_contract(args.new, "NEW", args.max_columns, asserts_formats)
    reasons = {
        "backward": reasons_against(old.document, new.document, asserts_formats),
        "forward": reasons_against(new.document, old.document, asserts_formats),
    }
    verdicts = {
        name: all(reason.unless_unused and not args.strict for reason in why)
        for name, why in reasons.items()
    }
    verdicts["full"] = verdicts["backward"] and verdicts["forward"]
    apart = incompatible_columns(old, new)
    verdicts["dataset"] = not apart
    if args.json:
        document = {
            **verdicts,
            "reasons": {
                name: [
                    {
                        "path": reason.path,
                        "text": reason.text,
                        "unless_unused": reason.unless_unused,
                    }
                    for reason in why
                ]
                for name, why in reasons.items()
            },
            "columns_apart": apart,
        }
        _write_json(document)
    else:
        sections: dict[str, list[Reason]] = {
            **reasons,
            "full": [],
            "dataset": [Reason("", text) for text in apart],
        }
        for name, why in sections.items():
            print(f"{name + ':':<10}{'yes' if verdicts[name] else 'no'}")
            for reason in why:
                mark = "only if events already have it: " if reason.unless_unused else ""
                print(f"  {mark}{printable(str(reason))}")
    wanted = verdicts.get(args.compatibility, True)
    return 0 if wanted and (verdicts["dataset"] or args.compatibility == "none") else 1
