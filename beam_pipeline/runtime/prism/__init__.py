"""Prism, Beam's DirectRunner for streams: built from source with a patch, and run as an engine."""
