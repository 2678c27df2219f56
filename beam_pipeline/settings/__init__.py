"""Flags, the sources of their values, and the frozen settings that everything else takes."""
