"""Columns are looked up and derived, on any slice of any batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import NOON_MS, commerce_contract, commerce_event, contract_of, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.errors import UsageError
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.resources import reference_dir
from beam_pipeline.schemas import Contract
from beam_pipeline.transforms import Enrich, Normalize
from beam_pipeline.transforms.batches import Refusal, apply_or_split
from beam_pipeline.transforms.enrich import EnrichBatch, ReferenceTable, additions_of
from beam_pipeline.transforms.normalize import NormalizeBatch, rules_of
from beam_pipeline.transforms.validate import RecordValidator

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
LOOKUP = {
    "add": "region",
    "lookup": {"table": "regions.csv", "key": "code", "value": "name", "column": "country"},
}
CONVERT = {
    "add": "euros",
    "convert": {
        "table": "rates.csv",
        "key": "currency",
        "rate": "rate",
        "amount": "order.total",
        "currency": "order.currency",
        "precision": 7,
        "scale": 2,
    },
}
DATE = {"add": "day", "date_of": "at"}
DELAY = {"add": "delay_ms", "delay_of": "at"}
PROPERTIES: dict[str, Any] = {
    "country": {"type": ["string", "null"]},
    "at": {"type": "string", "format": "date-time"},
    "order": {
        "type": "object",
        "properties": {"total": {"type": "number"}, "currency": {"type": "string"}},
    },
    "tags": {"type": "array", "items": {"type": "string"}},
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reference")
    (directory / "regions.csv").write_text("code,name,unused\nDE,Europe,1\nNA,Africa,2\nQQ,,3\n")
    (directory / "rates.csv").write_text("currency,rate\nEUR,1\nJPY,0.125\nXXX,\n")
    (directory / "empty.csv").write_text("")
    (directory / "header.csv").write_text("code,name\n")
    return directory


def contract_with(*entries: Any) -> Contract:
    return contract_of({"type": "object", "properties": PROPERTIES, "x-enrich": list(entries)})


def enriched(events: list[Any], tables: Path, *entries: Any) -> list[dict[str, Any]]:
    """The rows of `events` after enrichment."""
    contract = contract_with(*entries)
    batch = batch_of(contract, events)
    rows = EnrichBatch(additions_of(contract, tables))(batch)
    rows.validate(full=True)
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def batch_of(contract: Contract, events: Sequence[Any]) -> pa.RecordBatch:
    records = [kafka_record(event, offset=offset) for offset, event in enumerate(events)]
    (batch,), dead = RecordValidator(contract, ValidationRules(None)).validate(
        batch_of_records(records)
    )
    assert dead == []
    return batch


def test_a_value_is_looked_up(tables: Path) -> None:
    countries = ["DE", "NA", "QQ", "de", "ZZ", "", None]
    rows = enriched([{"country": country} for country in countries], tables, LOOKUP)
    assert [row["region"] for row in rows] == ["Europe", "Africa", "", None, None, None, None]


def test_a_key_column_has_the_name_of_the_table_by_default(tables: Path) -> None:
    entry = {"add": "name", "lookup": {"table": "regions.csv", "key": "country", "value": "name"}}
    (tables / "regions.csv").rename(tables / "old.csv")
    (tables / "regions.csv").write_text((tables / "old.csv").read_text().replace("code", "country"))
    try:
        (row,) = enriched([{"country": "DE"}], tables, entry)
    finally:
        (tables / "old.csv").replace(tables / "regions.csv")
    assert row["name"] == "Europe"


def test_a_table_without_rows_has_no_values(tables: Path) -> None:
    lookup = {**LOOKUP["lookup"], "table": "header.csv"}  # type: ignore[dict-item]
    (row,) = enriched([{"country": "DE"}], tables, {"add": "region", "lookup": lookup})
    assert row["region"] is None


def test_an_amount_is_converted(tables: Path) -> None:
    orders = [
        {"total": 10, "currency": "EUR"},
        {"total": 10, "currency": "JPY"},
        {"total": 1, "currency": "JPY"},
        {"total": 3, "currency": "JPY"},
        {"total": 99999.994, "currency": "EUR"},
        {"total": 10, "currency": "XXX"},
        {"total": 10, "currency": "ABC"},
        {"total": 10},
        {"currency": "EUR"},
        None,
    ]
    events = [{} if order is None else {"order": order} for order in orders]
    rows = enriched(events, tables, CONVERT)
    assert [row["euros"] for row in rows] == [
        Decimal("10.00"),
        Decimal("1.25"),
        Decimal("0.12"),  # half to even
        Decimal("0.38"),
        Decimal("99999.99"),
        None,
        None,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("kind", ["number", "string", "integer"])
def test_a_decimal_amount_is_converted_exactly(tmp_path: Path, kind: str) -> None:
    (tmp_path / "rates.csv").write_text(
        "currency,rate\nEUR,1\nUSD,0.123456789012345678\nXAF,1.5e-3\nQQQ,NA\n"
    )
    total = {"type": kind, "x-decimal": {"precision": 18, "scale": 0 if kind == "integer" else 2}}
    order = {"type": "object", "properties": {"total": total, "currency": {"type": "string"}}}
    convert = {**CONVERT, "convert": {**CONVERT["convert"], "precision": 38, "scale": 18}}  # type: ignore[dict-item]
    contract = contract_of(
        {"type": "object", "properties": {"order": order}, "x-enrich": [convert]}
    )
    text = "123456789012345678" if kind == "integer" else "1234567890123456.78"
    values = [
        f'{{"order": {{"total": {json.dumps(text) if kind == "string" else text}, '
        f'"currency": "{currency}"}}}}'.encode()
        for currency in ("EUR", "USD", "XAF", "QQQ")
    ]
    rows = NormalizeBatch(rules_of(contract))(batch_of(contract, values))
    rows = EnrichBatch(additions_of(contract, tmp_path))(rows)
    with localcontext(Context(prec=60)):
        amount = Decimal(text)
        expected = [amount, amount * Decimal("0.123456789012345678"), amount * Decimal("0.0015")]
        digits = Decimal(1).scaleb(-18)
        assert rows["euros"].to_pylist() == [*(euros.quantize(digits) for euros in expected), None]


@pytest.mark.parametrize("rate", ["much", "1e-40", "nan0", "inf"])
def test_a_rate_that_no_decimal_holds_is_one_line(tmp_path: Path, rate: str) -> None:
    (tmp_path / "rates.csv").write_text(f"currency,rate\nEUR,{rate}\n")
    with pytest.raises(UsageError, match=r"the rates have more than|a rate is not a number"):
        additions_of(contract_with(CONVERT), tmp_path)


def test_an_amount_too_large_is_refused_alone(tables: Path) -> None:
    contract = contract_with(CONVERT)
    totals = [1, 2, 100_000, 3, 1e300, 4]
    batch = batch_of(contract, [{"order": {"total": t, "currency": "EUR"}} for t in totals])
    kept: list[int] = []
    refused: list[int] = []
    for result in apply_or_split(batch, EnrichBatch(additions_of(contract, tables))):
        if isinstance(result, Refusal):
            refused.append(result.row)
        else:
            kept.extend(result.column("kafka_offset").to_pylist())
    assert (kept, refused) == ([0, 1, 3, 5], [2, 4])


@pytest.mark.parametrize(
    ("at", "day", "delay_ms"),
    [
        ("2026-11-23T12:00:00Z", date(2026, 11, 23), 0),
        ("2026-11-23T23:30:00-01:00", date(2026, 11, 24), -45_000_000),
        ("2026-11-23T11:59:59.9994Z", date(2026, 11, 23), 0),
        ("2026-11-23T12:00:00.0006Z", date(2026, 11, 23), -1),
        ("1969-12-31T23:59:59.999Z", date(1969, 12, 31), NOON_MS + 1),
        ("0002-01-01T00:00:00Z", date(2, 1, 1), NOON_MS + 62_104_060_800_000),
    ],
)
def test_the_date_and_the_delay_of_a_time(tables: Path, at: str, day: date, delay_ms: int) -> None:
    with_time, without = enriched([{"at": at}, {}], tables, DATE, DELAY)
    assert (with_time["day"], with_time["delay_ms"]) == (day, delay_ms)
    assert (without["day"], without["delay_ms"]) == (None, None)


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)))
def test_the_delay_is_exact(moment: datetime) -> None:
    (row,) = enriched([{"at": f"{moment.isoformat()}Z"}], Path("nowhere"), DELAY)
    assert row["delay_ms"] == (NOON - moment.replace(tzinfo=timezone.utc)) // timedelta(
        milliseconds=1
    )


@given(st.data())
def test_a_slice_gives_what_its_rows_give(tables: Path, data: st.DataObject) -> None:
    event = st.fixed_dictionaries(
        {"country": st.sampled_from(["DE", "NA", "??", None])},
        optional={
            "at": st.sampled_from(["2026-11-23T12:00:00Z", "1969-12-31T23:59:59.5Z"]),
            "order": st.fixed_dictionaries(
                {"total": st.sampled_from([1.005, 2])},
                optional={"currency": st.sampled_from(["EUR", "JPY", "???"])},
            ),
        },
    )
    events = data.draw(st.lists(event, min_size=1, max_size=8))
    start = data.draw(st.integers(0, len(events)))
    length = data.draw(st.integers(0, len(events) - start))
    contract = contract_with(LOOKUP, CONVERT, DATE, DELAY)
    add = EnrichBatch(additions_of(contract, tables))
    batch = batch_of(contract, events)
    assert add(batch.slice(start, length)).to_pylist() == add(batch).to_pylist()[start:][:length]


def test_columns_stand_before_the_kafka_columns_in_order(tables: Path) -> None:
    contract = contract_with(LOOKUP, DATE, DELAY, CONVERT)
    before = contract.batch_schema
    after = Enrich(contract, tables).output_schema(before)
    at = before.names.index("kafka_topic")
    assert after.names == [
        *before.names[:at],
        "region",
        "day",
        "delay_ms",
        "euros",
        *before.names[at:],
    ]
    assert after.field("region").type == pa.string()
    assert after.field("day").type == pa.date32()
    assert after.field("delay_ms").type == pa.int64()
    assert after.field("euros").type == pa.decimal128(7, 2)


def test_one_addition_may_use_another(tables: Path) -> None:
    then = {
        "add": "region_again",
        "lookup": {"table": "regions.csv", "key": "name", "value": "code", "column": "region"},
    }
    (row,) = enriched([{"country": "NA"}], tables, LOOKUP, then)
    assert row["region_again"] == "NA"


def lookup(**changes: Any) -> dict[str, Any]:
    return {
        "add": "region",
        "lookup": {"table": "regions.csv", "key": "code", "value": "name", "column": "country"}
        | changes,
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lookup(table="nothing.csv"), "there is no reference table nothing.csv"),
        (lookup(table="empty.csv"), "can't be applied"),
        (lookup(key="iso"), "can't be applied"),
        (lookup(value="continent"), "can't be applied"),
        (lookup(column="land"), "can't be applied"),
        (lookup(column="tags"), "can't be applied"),
        (lookup(column="order.total"), "can't be applied"),
        (lookup(table=5), "can't be applied"),
        ({"add": "region", "lookup": "regions.csv"}, "can't be applied"),
        ({"add": "region"}, "can't be applied"),
        ({"lookup": {}}, "can't be applied"),
        ({"add": 5, "date_of": "at"}, "can't be applied"),
        ("region", "can't be applied"),
        ({"add": "country", "date_of": "at"}, "has a column 'country' already"),
        ({"add": "kafka_offset", "date_of": "at"}, "has a column 'kafka_offset' already"),
        ({"add": "day", "date_of": "country"}, "can't be applied"),
        ({"add": "day", "date_of": "at.day"}, "can't be applied"),
        ({"add": "delay", "delay_of": "tags"}, "can't be applied"),
        ({"add": "x", "convert": {**CONVERT["convert"], "precision": 99}}, "can't be applied"),  # type: ignore[dict-item]
        ({"add": "x", "convert": {**CONVERT["convert"], "rate": "currency"}}, "can't be applied"),  # type: ignore[dict-item]
        ({"add": "x", "convert": {**CONVERT["convert"], "amount": "tags"}}, "can't be applied"),  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_a_wrong_entry_is_one_line(tables: Path, entry: Any, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        Enrich(contract_with(entry), tables)
    assert message in str(refused.value)
    assert str(refused.value).startswith(("--schema=events.schema.json: x-enrich", "--reference_"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("entries", [{"add": "x"}, 5, "region"])
def test_entries_that_are_no_list_are_one_line(tables: Path, entries: Any) -> None:
    contract = contract_of({"type": "object", "x-enrich": entries})
    with pytest.raises(UsageError, match=r"^--schema=events.schema.json: x-enrich must be a list"):
        Enrich(contract, tables)


def test_the_tables_do_not_show_in_a_repr() -> None:
    table = ReferenceTable(pa.array(["secret"]), pa.array([1]))
    assert repr(table) == "ReferenceTable()"


def test_the_commerce_event_is_enriched() -> None:
    contract = commerce_contract()
    event = commerce_event(country="na")
    event["purchase"]["currency"] = "usd"
    (batch,), _ = RecordValidator(contract, ValidationRules(contract.event_time_field)).validate(
        batch_of_records(
            [
                kafka_record(event, timestamp=NOON_MS + 250),
                kafka_record(commerce_event(country="XX")),
            ]
        )
    )
    normalized = NormalizeBatch(rules_of(contract))(batch)
    rows = EnrichBatch(additions_of(contract, reference_dir()))(normalized)
    assert rows.schema == Enrich(contract, reference_dir()).output_schema(
        Normalize(contract).output_schema(contract.batch_schema)
    )
    namibia, unknown = rows.to_pylist()
    assert namibia["country"] == "NA"
    assert namibia["region"] is not None
    assert "Africa" in namibia["region"]
    assert Decimal(0) < namibia["amount_eur"] < Decimal("59.97") * 2
    assert namibia["event_date"] == date(2026, 11, 23)
    assert namibia["ingestion_delay_ms"] == 250
    assert unknown["region"] is None
    assert unknown["amount_eur"] == Decimal("59.97")
