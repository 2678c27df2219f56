"""The report on the files of a pipeline, as one HTML file."""
