"""The summary that a demo ends with: files, some rows, dead letters by reason."""
