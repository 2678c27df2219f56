"""The live view of a run: its layout (board) and its numbers (view)."""
