"""Kafka to Parquet on Apache Beam: every record ends as one row or one dead letter."""
