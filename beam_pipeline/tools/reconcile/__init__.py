"""The proof: which records of a topic are in which file, offset by offset."""
