"""Tools around a run: reconcile, dead letters, inspect, compact, the report, a run's summary."""
