"""A run: the supervisor, resuming, leases, preflight checks, engines and their processes."""
