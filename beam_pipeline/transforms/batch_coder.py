"""How Arrow batches are encoded between the stages of a job."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from apache_beam import coders


class RecordBatchCoder(coders.Coder):
    """Encodes a pa.RecordBatch as an Arrow IPC stream.

    Within a stage nothing is encoded, but Beam's worker asks for the encoded size of the first ten
    elements of each bundle at every step (Beam 2.73, `opcounters`). The default coder pickles them
    to find it: several megabytes each time, and of a slice all that it was cut from.
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


def returning_batches(step: Any, **tagged_types: Any) -> Any:
    """Return a ParDo with the output type pa.RecordBatch, and register the coder of that type.

    Beam looks up a coder by an output's type in a registry, one for the whole process, so from
    then on other transforms' outputs of this type have the coder too. Importing registers nothing.

    Args:
      step: the ParDo.
      tagged_types: the types of its tagged outputs.
    """
    coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)
    return step.with_output_types(pa.RecordBatch, **tagged_types)
