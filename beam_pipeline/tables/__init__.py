"""The landed files as an Iceberg table. Nothing else imports pyiceberg, and a run without a table
imports nothing of this."""
