"""Flink: the engine, a local cluster, its distribution, REST client, job records, checks."""
