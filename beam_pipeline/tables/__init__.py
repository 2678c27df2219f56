"""The landed files as an Iceberg table. Beside it only `reconcile --table` imports pyiceberg, and a
run without a table imports nothing of this."""
