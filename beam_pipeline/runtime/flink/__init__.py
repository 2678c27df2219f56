"""Flink: the engine, a cluster on this machine, REST client, metrics, job records, preflight."""
