"""Write docs/reference/metrics.md, the reference of all metrics."""

from __future__ import annotations

from pathlib import Path

from beam_pipeline.commands.metrics.catalogue import metrics_reference

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "metrics.md"

if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(metrics_reference(), encoding="utf-8")
