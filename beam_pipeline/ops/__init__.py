"""Tools beside the pipeline: the proof that nothing is lost, and the handling of dead letters."""
