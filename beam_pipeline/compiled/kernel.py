"""The kernel in Python: the library, its memory, and Arrow columns made of it."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_pipeline.compiled import layout
from beam_pipeline.compiled.asked import refused_cells
from beam_pipeline.compiled.layout import Kind
from beam_pipeline.compiled.plan import Asked, Part, Plan
from beam_pipeline.schemas.columns import build_column
from beam_pipeline.schemas.nodes import TIMESTAMP_TYPE, Leaf

_CELLS_OF_A_LIST = 16
"""How many items of a list a record may have on average before records are given up."""

_CELL_BYTES = {
    Kind.BOOLEAN: 1,
    Kind.CATEGORY: 4,
    Kind.DATE: 4,
    Kind.INTEGER: 8,
    Kind.NUMBER: 8,
    Kind.DECIMAL: 8,
    Kind.TIME: 8,
}
_WITH_ENDS = (Kind.TEXT, Kind.JSON, Kind.LIST)


class KernelUnusableError(Exception):
    """The library can't be used here; the message says why."""


@dataclass(frozen=True)
class KernelLibrary:
    """The kernel as it was built. It is pickled with the transforms, so that workers need no file.

    `machine` is what `platform.machine` returned where it was built.
    """

    machine: str
    digest: str
    data: bytes = field(repr=False)

    def load(self) -> ctypes.CDLL:
        """Return the loaded library.

        Raises:
          KernelUnusableError: it is for another machine, or its tables have another layout.
        """
        if platform.machine() != self.machine:
            raise KernelUnusableError(f"it is for {self.machine}, not {platform.machine()}")
        loaded = _LOADED.get(self.digest)
        if loaded is None:
            loaded = _LOADED[self.digest] = _load(self.data)
        return loaded


_LOADED: dict[str, ctypes.CDLL] = {}


def _load(data: bytes) -> ctypes.CDLL:
    """Load a library from memory.

    The descriptor stays open: the loader takes a library of the same path for the same library, and
    another one must not get the number.
    """
    try:
        descriptor = os.memfd_create("beam-pipeline-kernel")
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        library = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
        library.layout.restype = ctypes.c_char_p
        its_layout = library.layout().decode()
    except (OSError, AttributeError) as error:
        raise KernelUnusableError(str(error)) from error
    if its_layout != layout.layout_text():
        raise KernelUnusableError("its tables have another layout")
    library.proveRows.restype = ctypes.c_int64
    library.proveRows.argtypes = [ctypes.c_void_p] * 3
    return library


class ProvenColumns(NamedTuple):
    """Which rows are proven valid, in order, and their columns of `Contract.event_schema`."""

    rows: npt.NDArray[np.int32]
    columns: list[pa.Array]


class TimeRule(NamedTuple):
    """Rows whose event time breaks it are given up; times are microseconds, from 1970 on.

    `min_time` and `max_time` are the first and last event time that there can be, `max_age` and
    `max_skew` how far one may be before and after the time of the append.
    """

    part: Part
    min_time: int
    max_time: int
    max_age: int
    max_skew: int


class Kernel:
    """Proves rows by one plan. It has scratch memory, and is for one thread at a time.

    Args:
      library: the kernel's code.
      plan: one with a root.
      max_value_bytes: how large a value may be.
      times: what event times must be; None if they may be any.

    Raises:
      KernelUnusableError: the library can't be used here.
    """

    def __init__(
        self,
        library: KernelLibrary,
        plan: Plan,
        max_value_bytes: int,
        times: TimeRule | None = None,
    ) -> None:
        assert plan.root is not None
        self._prove = library.load().proveRows
        self._plan = plan
        self._root = plan.root
        self._tables = np.zeros(1, layout.TABLES)
        self._values = np.zeros(1, layout.VALUES)
        self._kept: dict[str, Any] = {}
        self._columns: list[_ColumnMemory] = []
        self._cells = self._bytes = 0
        self._nulls: dict[int, pa.Array] = {}
        self._made: dict[int, pa.Array] = {}
        self._is_kept = {part.index for asked in plan.asked for part in (asked.part, *asked.lists)}
        self._in_lists = _columns_in_lists(plan.root)
        self._tables["max_value_bytes"] = max_value_bytes
        self._tables["event_time_node"] = -1
        if times is not None:
            self._tables["event_time_node"] = times.part.index
            for name in ("min_time", "max_time", "max_age", "max_skew"):
                self._tables[name] = getattr(times, name)
        self._fill_tables()

    def prove(
        self, values: pa.Array, append_times: npt.NDArray[np.int64] | None = None
    ) -> ProvenColumns:
        """Return the rows that are proven; of the others nothing is said.

        Args:
          values: JSON texts, binary, with nulls.
          append_times: microseconds since 1970; needed if there is a `TimeRule`.
        """
        rows = len(values)
        _, ends, data = values.buffers()
        proven = np.empty(rows, np.int32)
        done = 0
        if rows and data is not None:
            is_null = np.ascontiguousarray(
                values.is_null().to_numpy(zero_copy_only=False), dtype=np.uint8
            )
            own_ends = np.frombuffer(ends, np.int32)[values.offset : values.offset + rows + 1]
            self._make_room(rows, int(own_ends[-1] - own_ends[0]))
            if append_times is None:
                append_times = np.zeros(rows, np.int64)
            assert len(append_times) == rows
            times_at = _at(append_times)
            nulls_at = _at(is_null)
            place = (data.address, ends.address, values.offset, rows)
            self._values[0] = (*place, nulls_at, times_at)
            done = self._prove(_at(self._tables), _at(self._values), _at(proven))
        columns = self._columns_of(self._root, done) if done else []
        return self._without_refused(ProvenColumns(proven[:done], columns))

    def _without_refused(self, proven: ProvenColumns) -> ProvenColumns:
        """Return the rows without those whose values jsonschema-rs refuses (`plan.Asked`)."""
        refused = [self._refused_rows(asked) for asked in self._plan.asked if len(proven.rows)]
        self._made.clear()
        if not any(map(len, refused)):
            return proven
        kept = np.ones(len(proven.rows), np.bool_)
        for rows in refused:
            kept[rows] = False
        mask = pa.array(kept)
        return ProvenColumns(proven.rows[kept], [column.filter(mask) for column in proven.columns])

    def _refused_rows(self, asked: Asked) -> Any:
        rows = refused_cells(asked.rules, asked.part.kind, self._made[asked.part.index])
        for part in reversed(asked.lists):
            ends = self._columns[part.column].ends[: len(self._made[part.index]) + 1]
            rows = np.searchsorted(ends, rows, side="right") - 1
        return rows

    def _fill_tables(self) -> None:
        plan, names = self._plan, bytearray()

        def named(text: bytes) -> tuple[int, int]:
            names.extend(text)
            return len(names) - len(text), len(text)

        nodes = np.zeros(len(plan.parts), layout.NODE)
        for part in plan.parts:
            nodes[part.index]["kind"] = part.kind
            for name, value in part.row.items():
                nodes[part.index][name] = value
        fields = [(*named(f'"{name}"'.encode()), part.index) for name, part in plan.fields]
        texts = [named(text.encode()) for text in plan.texts]
        conditions = [
            (each.child, each.categories, each.needed, each.then, each.otherwise)
            for each in plan.conditions
        ]
        self._set("nodes", "node_count", nodes)
        self._set("children", "child_count", np.array(fields, layout.CHILD))
        self._set("categories", "category_count", np.array(texts, layout.CATEGORY))
        self._set("conditions", "condition_count", np.array(conditions, layout.CONDITION))
        self._set("names", "name_bytes", np.frombuffer(bytes(names), np.uint8))
        self._set("patterns", "pattern_bytes", np.frombuffer(b"".join(plan.patterns), np.uint8))
        self._set("codes", None, np.zeros(len(fields), np.uint8))
        self._set("guesses", None, np.zeros(len(fields) + 1, np.uint8))

    def _set(self, name: str, count_name: str | None, table: Any) -> None:
        if count_name is not None:
            self._tables[count_name] = len(table)
        kept = table if len(table) else np.zeros(1, table.dtype)  # an address is never null
        self._kept[name] = kept
        self._tables[name] = _at(kept)

    def _make_room(self, rows: int, data_bytes: int) -> None:
        """Make memory for so many rows whose values are so many bytes; it is touched as used."""
        if rows <= self._cells and data_bytes <= self._bytes:
            return
        self._cells = max(_power_of_two(rows), self._cells)
        self._bytes = max(_power_of_two(data_bytes), self._bytes)
        self._columns = []
        table = np.zeros(len(self._plan.column_parts), layout.COLUMN)
        for index, part in enumerate(self._plan.column_parts):
            cells = self._cells * (_CELLS_OF_A_LIST if index in self._in_lists else 1)
            memory = _ColumnMemory.of(part, index, cells, self._bytes)
            self._columns.append(memory)
            table[index] = (
                *(_at(memory.valid), _at(memory.ends), _at(memory.data)),
                *(cells, memory.data.nbytes),
            )
        self._set("columns", "column_count", table)

    # From the memory to Arrow

    def _columns_of(self, part: Part, count: int) -> list[pa.Array]:
        """Return the columns of an object's fields, and that of its unnamed ones."""
        columns = [self._made_array(child, count) for child in part.parts]
        if part.extra_column >= 0:
            columns.append(self._texts(self._columns[part.extra_column], count))
        return columns

    def _made_array(self, part: Part, count: int) -> pa.Array:
        array = self._array(part, count)
        if part.index in self._is_kept:
            self._made[part.index] = array
        return array

    def _array(self, part: Part, count: int) -> pa.Array:
        if part.kind is Kind.UNKNOWN:
            return self._null_array(part, count)
        memory = self._columns[part.column]
        if part.kind in (Kind.TEXT, Kind.JSON):
            return self._texts(memory, count)
        kind = part.node.arrow_type
        bitmap, nulls = memory.bitmap(count)
        if part.kind is Kind.OBJECT:
            children = self._columns_of(part, count)
            return pa.Array.from_buffers(kind, count, [bitmap], nulls, children=children)
        if part.kind is Kind.LIST:
            ends = memory.ends[: count + 1].copy()
            items = self._made_array(part.parts[0], int(ends[count]))
            buffers = [bitmap, pa.py_buffer(ends)]
            return pa.Array.from_buffers(kind, count, buffers, nulls, children=[items])
        if part.kind is Kind.BOOLEAN:
            bits = np.packbits(memory.data.view(np.uint8)[:count], bitorder="little")
            return pa.Array.from_buffers(kind, count, [bitmap, pa.py_buffer(bits)], nulls)
        if part.kind in (Kind.CATEGORY, Kind.DATE):
            cells = pa.py_buffer(memory.data.view(np.int32)[:count].copy())
            if part.kind is Kind.DATE:
                return pa.Array.from_buffers(kind, count, [bitmap, cells], nulls)
            assert isinstance(part.node, Leaf)
            indices = pa.Array.from_buffers(pa.int32(), count, [bitmap, cells], nulls)
            return pa.DictionaryArray.from_arrays(indices, pa.array(part.node.categories))
        words = memory.data[:count]
        if part.kind is Kind.DECIMAL:
            words = np.stack([words, words >> 63], axis=1)  # little-endian, 128 bits
        else:
            words = words.copy()
            assert kind in (pa.int64(), pa.float64(), TIMESTAMP_TYPE)
        return pa.Array.from_buffers(kind, count, [bitmap, pa.py_buffer(words)], nulls)

    def _texts(self, memory: _ColumnMemory, count: int) -> pa.Array:
        bitmap, nulls = memory.bitmap(count)
        ends = memory.ends[: count + 1].copy()
        data = memory.data.view(np.uint8)[: ends[count]].copy()
        buffers = [bitmap, pa.py_buffer(ends), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.string(), count, buffers, nulls)

    def _null_array(self, part: Part, count: int) -> pa.Array:
        known = self._nulls.get(part.index)
        if known is None or len(known) < count:
            known = self._nulls[part.index] = build_column([None] * count, part.node)
        return known.slice(0, count)


class _ColumnMemory(NamedTuple):
    """The memory of `layout.COLUMN`; `data` are int64, which aligns them."""

    valid: Any
    ends: Any
    data: Any

    @classmethod
    def of(cls, part: Part, index: int, cells: int, text_bytes: int) -> _ColumnMemory:
        is_extra = index == part.extra_column
        is_text = is_extra or part.kind in (Kind.TEXT, Kind.JSON)
        data_bytes = text_bytes if is_text else cells * _CELL_BYTES.get(part.kind, 0)
        has_ends = is_extra or part.kind in _WITH_ENDS
        return cls(
            valid=np.empty(cells, np.uint8),
            ends=np.zeros(cells + 1 if has_ends else 1, np.int32),
            data=np.empty(data_bytes // 8 + 2, np.int64),
        )

    def bitmap(self, count: int) -> tuple[pa.Buffer | None, int]:
        """Return the bits of the cells that have a value, and how many have none."""
        valid = self.valid[:count]
        nulls = count - int(np.count_nonzero(valid))
        if not nulls:
            return None, 0
        return pa.py_buffer(np.packbits(valid, bitorder="little")), nulls


def _columns_in_lists(root: Part) -> set[int]:
    columns: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        part, is_inside = waiting.pop()
        if is_inside:
            columns |= {part.column, part.extra_column}
        waiting += [(child, is_inside or part.kind is Kind.LIST) for child in part.parts]
    return columns - {-1}


def _power_of_two(number: int) -> int:
    """Return the next one, so that batches that grow slowly do not make the memory anew each."""
    return 1 << max(number - 1, 0).bit_length()


def _at(array: Any) -> int:
    return int(array.ctypes.data)
