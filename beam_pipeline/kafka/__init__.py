"""Kafka without Beam: connection settings, admin client, reading the log, end offsets."""
