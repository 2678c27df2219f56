"""The columns of the files that a job writes, with those that normalization, enrichment and the
user's transforms change or add.

Run as `python -m beam_pipeline.landed_columns` by a process that does not load Beam: it takes
settings as JSON from stdin and prints the columns as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from beam_pipeline.errors import PipelineError
from beam_pipeline.schemas import Contract
from beam_pipeline.schemas.contract import file_schema
from beam_pipeline.schemas.dataset import ReadType, columns_with_encodings
from beam_pipeline.settings.config import PipelineSettings
from beam_pipeline.transforms import Enrich, Normalize, user_transforms


def landed_columns(
    contract: Contract,
    reference_dir: Path,
    transforms: Sequence[str],
    kafka_columns: Sequence[str],
) -> dict[str, ReadType]:
    """Return the columns of the files.

    Raises:
      UsageError: an annotation or a transform is not usable.
    """
    schema = Normalize(contract).output_schema(contract.batch_schema)
    schema = Enrich(contract, reference_dir).output_schema(schema)
    for transform in user_transforms(transforms, schema, contract.ref):
        schema = transform.output_schema(schema)
    return columns_with_encodings(file_schema(schema, kafka_columns), contract)


def main() -> int:
    """Print the columns; return 2 after one line on stderr where a flag is wrong."""
    try:
        settings = msgspec.json.decode(sys.stdin.buffer.read(), type=PipelineSettings)
        columns = landed_columns(
            settings.contract(),
            Path(settings.reference_dir),
            settings.transforms,
            settings.kafka_columns,
        )
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    json.dump(columns, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
