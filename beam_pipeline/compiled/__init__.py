"""Contracts as tables for a kernel in Zig: JSON texts to Arrow columns, for rows proven valid."""
