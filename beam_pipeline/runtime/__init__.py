"""A run: supervisor, restarts, resuming, leases, preflight checks, engines, processes."""
