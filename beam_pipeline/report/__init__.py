"""`beam-pipeline report`: what a pipeline has landed, as one HTML file."""
