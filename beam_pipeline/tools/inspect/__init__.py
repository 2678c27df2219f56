"""Inspection: the content of a file or a tree of files, from footers and lines."""
