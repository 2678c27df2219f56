"""Kafka to Parquet on Apache Beam: every record ends up as one row or one dead letter.

The public API is what docs/library.md lists, in `beam_pipeline.io`, `.transforms`,
`.schemas`, `.records`, `.pipeline`, `.options` and `.errors`. Importing this package alone imports
no Beam.
"""
