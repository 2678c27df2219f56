"""Compaction: which small Parquet files become one, and the exchange that puts it in place."""
