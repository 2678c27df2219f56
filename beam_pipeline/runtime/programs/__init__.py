"""Programs that the pipeline starts: Java and jars, broker, expansion service; their cache."""
