"""Shared by the contenders: the work on commerce events, written by hand with pyarrow.

It imports nothing of the pipeline under test and reads only its schema and reference tables, so
equal outputs confirm both. `land` and `WindowFiles` process batches, for the hand-written loop and
Bytewax. `normalize_event` and `enrich_event` process one dict, for Quix Streams, which passes
single messages.

A row that Arrow refuses ends a contender; the synthetic events have none.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jsonschema_rs
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

JOB_VARIABLE = "BENCH_JOB"

MAX_VALUE_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 200
MAX_AGE_MS = 7 * 24 * 3600 * 1000
MAX_SKEW_MS = 300_000

ROW_GROUP_ROWS = 100_000

_encode_json = msgspec.json.Encoder().encode
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Job:
    """The topic to land, and the target; `ends` are the end offsets by partition."""

    bootstrap_servers: str
    topic: str
    ends: dict[int, int]
    window_seconds: int
    output_dir: str
    dead_letter_dir: str
    schema: str
    reference_dir: str

    @staticmethod
    def from_environment() -> Job:
        """Return the job that the benchmark passes as a JSON object."""
        fields = json.loads(os.environ[JOB_VARIABLE])
        fields["ends"] = {int(partition): end for partition, end in fields["ends"].items()}
        return Job(**fields)


class Record(NamedTuple):
    """A Kafka record; `timestamp` is (type, milliseconds since 1970) as confluent-kafka has it."""

    topic: str
    partition: int
    offset: int
    timestamp: tuple[int, int]
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] | None


class Failure(NamedTuple):
    """Why a record is a dead letter."""

    code: str
    message: str
    violations: list[dict[str, str]]


def _failure(code: str, message: str) -> Failure:
    return Failure(code, message[:500], [])


class Judge:
    """Decodes and validates values."""

    def __init__(self, schema: str) -> None:
        raw = Path(schema).read_bytes()
        document = json.loads(raw)
        self.schema_ref = {"id": document["$id"], "sha256": hashlib.sha256(raw).hexdigest()}
        self._decode = msgspec.json.Decoder().decode
        self._validator = jsonschema_rs.validator_for(document, validate_formats=True)
        self._is_valid = self._validator.is_valid

    def judge(self, value: bytes | None) -> tuple[Any, Failure | None]:
        """Return the event and None, or None and the failure."""
        if value is None:
            return None, _failure("NULL_VALUE", "the value is null")
        if len(value) > MAX_VALUE_BYTES:
            return None, _failure("TOO_LARGE", f"the value has {len(value)} bytes")
        if value.count(b"[") + value.count(b"{") > MAX_DEPTH and _depth_of(value) > MAX_DEPTH:
            return None, _failure("TOO_DEEP", f"nested more than {MAX_DEPTH} levels deep")
        try:
            event = self._decode(value)
        except ValueError as error:
            return None, _malformed(value, error)
        if self._is_valid(event):
            return event, None
        return None, self._explain(event)

    def _explain(self, event: Any) -> Failure:
        violations = [
            {
                "keyword": str(error.schema_path[-1]),
                "instance_path": _pointer(error.instance_path),
                "schema_path": _pointer(error.schema_path),
                "message": error.message[:500],
            }
            for error in self._validator.iter_errors(event)
        ]
        return Failure("SCHEMA_VIOLATION", violations[0]["message"], violations)


def check_time(event_us: int, append_ms: int) -> Failure | None:
    """Return a failure if an event is too old or in the future, by its Kafka timestamp."""
    age_us = append_ms * 1000 - event_us
    if age_us > MAX_AGE_MS * 1000:
        return _failure("TOO_OLD", "event_time is too long before the append time")
    if age_us < -MAX_SKEW_MS * 1000:
        return _failure("IN_THE_FUTURE", "event_time is too far after the append time")
    return None


def dead_letter(record: Record, failure: Failure, schema_ref: dict[str, str]) -> dict[str, Any]:
    """Return the JSON line of `schema/dead_letter.schema.json`."""
    identity = f"{record.topic}\0{record.partition}\0{record.offset}\0validate"
    kind, timestamp_ms = record.timestamp
    return {
        "dlq_id": hashlib.sha256(identity.encode()).hexdigest(),
        "failed_at": _rfc3339(time.time_ns() // 1_000_000),
        "stage": "validate",
        "error": {
            "code": failure.code,
            "class": "ValidationError",
            "message": failure.message,
            "stacktrace": None,
            "violations": failure.violations,
        },
        "source": {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": _rfc3339(timestamp_ms),
            "timestamp_type": "LOG_APPEND_TIME" if kind == 2 else "CREATE_TIME",
        },
        "key_b64": _base64(record.key),
        "value_b64": _base64(record.value),
        "value_text": _text(record.value),
        "headers": [
            {"key": name, "value_b64": _base64(content)} for name, content in record.headers or ()
        ],
        "schema": schema_ref,
        "epoch": "bench",
        "attempt": 1,
    }


class Reference:
    """The reference tables, as dicts and as Arrow arrays."""

    def __init__(self, directory: str) -> None:
        self.regions = {
            row["country"]: row["region"] for row in _rows(directory, "country_region.csv")
        }
        self.eur_per_unit = {
            row["currency"]: Decimal(row["eur_per_unit"])
            for row in _rows(directory, "currency_rates.csv")
        }

    @cached_property
    def region_columns(self) -> tuple[pa.Array, pa.Array]:
        """Return countries and their regions."""
        return pa.array(self.regions), pa.array(self.regions.values())

    @cached_property
    def rate_columns(self) -> tuple[pa.Array, pa.Array]:
        """Return currencies and their rates in euros."""
        return pa.array(self.eur_per_unit), pa.array(self.eur_per_unit.values(), RATE)


# --- batches: columns by list comprehensions, everything after that by pyarrow.compute

MONEY = pa.decimal128(18, 2)
RATE = pa.decimal128(12, 8)
TIME = pa.timestamp("us", tz="UTC")
_ITEM = pa.struct([("sku", pa.string()), ("quantity", pa.int64()), ("unit_price", MONEY)])
_DEVICE_FIELDS = ("kind", "os", "app_version")

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("event_time", TIME),
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("country", pa.string()),
        ("page_url", pa.string()),
        ("referrer", pa.string()),
        ("user_agent", pa.string()),
        ("device", pa.struct([(name, pa.string()) for name in _DEVICE_FIELDS])),
        (
            "purchase",
            pa.struct(
                [
                    ("order_id", pa.string()),
                    ("amount", MONEY),
                    ("currency", pa.string()),
                    ("items", pa.list_(_ITEM)),
                ]
            ),
        ),
        ("consent", pa.bool_()),
        ("experiment", pa.string()),
        ("extra", pa.string()),
        ("region", pa.string()),
        ("amount_eur", MONEY),
        ("event_date", pa.date32()),
        ("ingestion_delay_ms", pa.int64()),
        ("kafka_topic", pa.string()),
        ("kafka_partition", pa.int32()),
        ("kafka_offset", pa.int64()),
        ("kafka_timestamp", pa.timestamp("ms", tz="UTC")),
    ]
)
_NAMED = frozenset(SCHEMA.names[: SCHEMA.names.index("extra")])


def land(
    records: Iterable[Record], judge: Judge, reference: Reference
) -> tuple[pa.RecordBatch, list[dict[str, Any]]]:
    """Return a batch of the valid records, normalised and enriched, and dead letters."""
    events: list[dict[str, Any]] = []
    kept: list[Record] = []
    dead: list[dict[str, Any]] = []
    for record in records:
        event, failure = judge.judge(record.value)
        if failure is None:
            events.append(event)
            kept.append(record)
        else:
            dead.append(dead_letter(record, failure, judge.schema_ref))
    batch = _columns(events, kept, reference)
    append_ms = batch.column("kafka_timestamp").cast(pa.int64()).to_numpy()
    age_us = append_ms * 1000 - event_times_us(batch)
    in_time = (age_us <= MAX_AGE_MS * 1000) & (age_us >= -MAX_SKEW_MS * 1000)
    if not in_time.all():
        for row in np.flatnonzero(~in_time).tolist():
            late = check_time(int(append_ms[row] * 1000 - age_us[row]), int(append_ms[row]))
            if late is not None:
                dead.append(dead_letter(kept[row], late, judge.schema_ref))
        batch = batch.filter(pa.array(in_time))
    return batch, dead


def event_times_us(batch: pa.RecordBatch) -> Any:
    """Return the column event_time in microseconds since 1970."""
    return batch.column("event_time").cast(pa.int64()).to_numpy()


def _columns(
    events: list[dict[str, Any]], records: list[Record], reference: Reference
) -> pa.RecordBatch:
    def text(name: str) -> pa.Array:
        return pa.array([event.get(name) for event in events], pa.string())

    country = pc.utf8_upper(text("country"))
    event_time = pc.cast(text("event_time"), TIME)
    purchase, amounts, currency = _purchase_column(events)
    appended = pa.array([record.timestamp[1] for record in records], pa.int64())
    event_us = event_time.cast(pa.int64()).to_numpy()
    columns = [
        pc.utf8_lower(text("event_id")),
        text("event_type"),
        event_time,
        text("user_id"),
        pc.utf8_lower(text("session_id")),
        country,
        pc.utf8_trim_whitespace(text("page_url")),
        pc.utf8_trim_whitespace(text("referrer")),
        pc.utf8_trim_whitespace(text("user_agent")),
        _device_column(events),
        purchase,
        pa.array([event.get("consent", False) for event in events], pa.bool_()),
        pc.utf8_lower(pc.utf8_trim_whitespace(text("experiment"))),
        pa.array([_extra(event) for event in events], pa.string()),
        _look_up(country, *reference.region_columns),
        _in_euros(amounts, _look_up(currency, *reference.rate_columns)),
        pc.cast(pc.floor_temporal(event_time, unit="day"), pa.date32()),
        pa.array(appended.to_numpy() + (-event_us) // 1000, pa.int64()),
        pa.array([record.topic for record in records], pa.string()),
        pa.array([record.partition for record in records], pa.int32()),
        pa.array([record.offset for record in records], pa.int64()),
        pc.cast(appended, SCHEMA.field("kafka_timestamp").type),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _device_column(events: list[dict[str, Any]]) -> pa.Array:
    devices = [event["device"] for event in events]
    kind, system, version = (
        pa.array([device.get(name) for device in devices], pa.string()) for name in _DEVICE_FIELDS
    )
    system = pc.utf8_lower(pc.utf8_trim_whitespace(system))
    return pa.StructArray.from_arrays([kind, system, version], names=_DEVICE_FIELDS)


def _purchase_column(events: list[dict[str, Any]]) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Return purchases, amounts and currencies."""
    purchases = [event.get("purchase") for event in events]
    orders = [purchase or {} for purchase in purchases]
    offsets: list[int | None] = []
    items: list[dict[str, Any]] = []
    for purchase in purchases:
        if purchase is None:
            offsets.append(None)
        else:
            offsets.append(len(items))
            items.extend(purchase["items"])
    offsets.append(len(items))
    item_column = pa.StructArray.from_arrays(
        [
            pa.array([item["sku"] for item in items], pa.string()),
            pa.array([item["quantity"] for item in items], pa.int64()),
            pc.cast(pa.array([item["unit_price"] for item in items], pa.float64()), MONEY),
        ],
        fields=list(_ITEM),
    )
    amounts = pc.cast(pa.array([order.get("amount") for order in orders], pa.float64()), MONEY)
    currency = pc.utf8_upper(pa.array([order.get("currency") for order in orders], pa.string()))
    column = pa.StructArray.from_arrays(
        [
            pa.array([order.get("order_id") for order in orders], pa.string()),
            amounts,
            currency,
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), item_column),
        ],
        fields=list(SCHEMA.field("purchase").type),
        mask=pa.array([purchase is None for purchase in purchases], pa.bool_()),
    )
    return column, amounts, currency


def _in_euros(amounts: pa.Array, rates: pa.Array) -> pa.Array:
    return pc.cast(pc.round(pc.multiply(amounts, rates), MONEY.scale, "half_to_even"), MONEY)


def _look_up(keys: pa.Array, known: pa.Array, values: pa.Array) -> pa.Array:
    return values.take(pc.index_in(keys, value_set=known, skip_nulls=True))


class WindowFiles:
    """One Parquet file per window, written one row group at a time.

    A window that gets rows after `close_before` has closed it gets a further file.
    """

    def __init__(self, output_dir: str, topic: str, window_seconds: int) -> None:
        self._output_dir = output_dir
        self._topic = topic
        self._window_us = window_seconds * 1_000_000
        self._open: dict[int, _WindowFile] = {}
        self._panes: dict[int, int] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Write each row to the file of its window of event time."""
        windows = event_times_us(batch) // self._window_us
        if windows.size == 0:
            return
        if windows.min() == windows.max():
            self._file(int(windows[0])).write(batch)
            return
        for window in np.unique(windows).tolist():
            self._file(window).write(batch.filter(pa.array(windows == window)))

    def close_before(self, time_us: int) -> None:
        """Finish the files of windows that end at `time_us` or earlier."""
        for window in [
            window for window in self._open if (window + 1) * self._window_us <= time_us
        ]:
            self._open.pop(window).close()

    def close(self) -> None:
        """Finish all files."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _file(self, window: int) -> _WindowFile:
        file = self._open.get(window)
        if file is None:
            pane = self._panes.get(window, 0)
            self._panes[window] = pane + 1
            file = self._open[window] = _WindowFile(self._path(window, pane))
        return file

    def _path(self, window: int, pane: int) -> Path:
        start = _EPOCH + timedelta(microseconds=window * self._window_us)
        end = start + timedelta(microseconds=self._window_us)
        name = (
            f"{self._topic}-{start:%Y%m%dT%H%M%SZ}-{end:%Y%m%dT%H%M%SZ}-s0-ebench-p{pane}.parquet"
        )
        return Path(self._output_dir, f"dt={start:%Y-%m-%d}", f"hour={start:%H}", name)


class _WindowFile:
    """A file that gets its final name once it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f"_{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._temporary, SCHEMA, compression="zstd")
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        if self._pending_rows >= ROW_GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._temporary.replace(self._path)

    def _flush(self) -> None:
        if self._pending:
            table = pa.Table.from_batches(self._pending, SCHEMA)
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._pending, self._pending_rows = [], 0


def write_letters(sink: BinaryIO, letters: Iterable[dict[str, Any]]) -> None:
    """Append a JSON line per dead letter."""
    sink.writelines(_encode_json(letter) + b"\n" for letter in letters)


def letters_path(dead_letter_dir: str) -> Path:
    """Return the path of the dead-letter file, and make its directory."""
    Path(dead_letter_dir).mkdir(parents=True, exist_ok=True)
    return Path(dead_letter_dir, "letters.jsonl")


# --- one event at a time


def normalize_event(event: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of one event before enrichment."""
    device, purchase = event["device"], event.get("purchase")
    return {
        "event_id": event["event_id"].lower(),
        "event_type": event["event_type"],
        "event_time": event_time_of(event),
        "user_id": event["user_id"],
        "session_id": event["session_id"].lower(),
        "country": event["country"].upper(),
        "page_url": event["page_url"].strip(),
        "referrer": _strip(event.get("referrer")),
        "user_agent": event["user_agent"].strip(),
        "device": {
            "kind": device["kind"],
            "os": device["os"].strip().lower(),
            "app_version": device.get("app_version"),
        },
        "purchase": purchase and _normalize_purchase(purchase),
        "consent": event.get("consent", False),
        "experiment": event["experiment"].strip().lower() if "experiment" in event else None,
        "extra": _extra(event),
    }


def enrich_event(row: dict[str, Any], append_ms: int, reference: Reference) -> dict[str, Any]:
    """Return `row` with the added columns."""
    purchase = row["purchase"]
    rate = reference.eur_per_unit.get(purchase["currency"]) if purchase else None
    return {
        **row,
        "region": reference.regions.get(row["country"]),
        "amount_eur": None if rate is None else round(purchase["amount"] * rate, 2),
        "event_date": row["event_time"].date(),
        "ingestion_delay_ms": append_ms + -microseconds_of(row["event_time"]) // 1000,
    }


def event_time_of(event: dict[str, Any]) -> datetime:
    """Return the event's time in UTC."""
    return datetime.fromisoformat(event["event_time"]).astimezone(timezone.utc)


def microseconds_of(moment: datetime) -> int:
    """Return microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _normalize_purchase(purchase: dict[str, Any]) -> dict[str, Any]:
    return {
        "order_id": purchase["order_id"],
        "amount": _money(purchase["amount"]),
        "currency": purchase["currency"].upper(),
        "items": [
            {
                "sku": item["sku"],
                "quantity": item["quantity"],
                "unit_price": _money(item["unit_price"]),
            }
            for item in purchase["items"]
        ],
    }


def _money(value: float) -> Decimal:
    return round(Decimal(value), 2)


def _strip(text: str | None) -> str | None:
    return None if text is None else text.strip()


# --- helpers


def _extra(event: dict[str, Any]) -> str | None:
    """Return the fields that the schema does not name, as JSON text."""
    if _NAMED.issuperset(event):
        return None
    unnamed = {name: value for name, value in event.items() if name not in _NAMED}
    return _encode_json(unnamed).decode()


_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


def _depth_of(value: bytes) -> int:
    depth = deepest = 0
    for character in _STRING.sub(b"", value):
        if character in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in b"]}":
            depth -= 1
    return deepest


def _malformed(value: bytes, error: ValueError) -> Failure:
    try:
        value.decode()
    except UnicodeDecodeError as unicode_error:
        return _failure("NOT_UTF8", str(unicode_error))
    return _failure("MALFORMED_JSON", str(error))


def _pointer(path: Iterable[Any]) -> str:
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def _rfc3339(timestamp_ms: int) -> str:
    moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()[:4_000]
    except UnicodeDecodeError:
        return None


def _rows(directory: str, name: str) -> list[dict[str, str]]:
    with Path(directory, name).open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))
