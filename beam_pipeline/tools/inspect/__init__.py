"""What a file or a tree of files contains, by footers and lines."""
