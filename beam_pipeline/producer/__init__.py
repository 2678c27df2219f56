"""Sends records to a Kafka topic: synthetic events, valid and invalid, or the lines of a file."""
