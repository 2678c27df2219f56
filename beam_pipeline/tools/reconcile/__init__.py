"""Reconciliation: each offset of a topic is compared with the files."""
