"""Where records come from and where rows and letters go: Kafka, Parquet, JSON lines, the ledger."""
