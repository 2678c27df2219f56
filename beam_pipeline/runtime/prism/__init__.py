"""Prism, Beam's DirectRunner for streams: its build from source with a patch, and its engine."""
