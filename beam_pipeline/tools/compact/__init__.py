"""Compaction: small Parquet files are merged, and exchanged for the merged ones in one step."""
