"""Programs the pipeline starts: Java and its jars, broker, expansion service; and their cache."""
