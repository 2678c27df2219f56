"""Where files land: a directory, or a bucket of an object store, behind one Protocol."""
