"""Kafka without Beam: connection settings, the admin client, log readers, end offsets."""
