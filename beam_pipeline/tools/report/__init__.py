"""The report of what a pipeline has landed, as one HTML file."""
