"""Two transforms of one's own, for the events of `schema/commerce_event.schema.json`.

    ./run_direct.sh --transform=examples.transforms:AmountBand \\
      --transform=examples.transforms:refuse_bots

`beam_pipeline.transforms.Transform` says what a transform must keep to.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


class AmountBand:
    """Adds the column `amount_band`: small, medium or large by `amount_eur`; null without one."""

    def setup(self) -> None:
        """Called once in each worker; the place for what is costly to load or can't be pickled."""
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
    """Makes dead letters of what crawlers did, by their User-Agent.

    It need not find out which rows they are: where it raises, it is called again on halves of the
    batch until the rows at fault stand alone.
    """
    agents = pc.utf8_lower(batch.column("user_agent"))
    if pc.any(pc.match_substring(agents, "bot/")).as_py():
        raise ValueError("a crawler, by its User-Agent")
    return batch
