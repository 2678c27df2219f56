"""How Arrow batches cross from one stage of a job to the next."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from apache_beam import coders


class RecordBatchCoder(coders.Coder):
    """pa.RecordBatch to bytes and back, as an Arrow IPC stream.

    Within a stage nothing is encoded, yet Beam's worker asks for the encoded size of the first ten
    elements of each bundle at every step (2.73, `opcounters`), and by default finds it by pickling
    them: several megabytes each time, of a slice even all that it was cut from.
    """

    def encode(self, value: pa.RecordBatch) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_batch(value)
        return bytes(sink.getvalue().to_pybytes())

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        with pa.ipc.open_stream(encoded) as reader:
            return reader.read_next_batch()

    def estimate_size(self, value: pa.RecordBatch) -> int:
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> Any:
        return pa.RecordBatch


coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)
