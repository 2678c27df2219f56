"""The live view of a run: what it shows, and the numbers it shows them from."""
