"""Records for a Kafka topic: synthetic shop events, whole and broken, or the lines of a file."""
