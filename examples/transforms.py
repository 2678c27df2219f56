"""Two user transforms for the events of `schema/commerce_event.schema.json`.

    ./run_direct.sh --transform=examples.transforms:AmountBand \\
      --transform=examples.transforms:refuse_bots

See `beam_pipeline.transforms.Transform` for the rules of a transform.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


class AmountBand:
    """Add the column `amount_band`: small, medium or large by `amount_eur`, null without it."""

    def setup(self) -> None:
        """Called once in each worker: load here what is expensive or can't be pickled."""
        self._medium, self._large = pa.scalar(50.0), pa.scalar(500.0)

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        amounts = pc.cast(batch.column("amount_eur"), pa.float64())
        bands = pc.case_when(
            pc.make_struct(
                pc.less(amounts, self._medium),
                pc.less(amounts, self._large),
                pc.is_valid(amounts),
            ),
            pa.scalar("small"),
            pa.scalar("medium"),
            pa.scalar("large"),
        )
        return batch.append_column("amount_band", bands)


def refuse_bots(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Make dead letters of the events of crawlers, by their User-Agent.

    A transform need not say which rows are at fault. If it raises, it is called again on halves of
    the batch until the rows at fault are alone.
    """
    agents = pc.utf8_lower(batch.column("user_agent"))
    if pc.any(pc.match_substring(agents, "bot/")).as_py():
        raise ValueError("a crawler, by its User-Agent")
    return batch
