"""What measures the pipeline; see bench/README.md."""
