"""Kafka to Parquet on Apache Beam: every record ends as one row or one dead letter.

The public API is what README.md lists under "As a library", in `beam_pipeline.io`, `.transforms`,
`.schemas`, `.records`, `.pipeline`, `.options` and `.errors`. Importing this package alone imports
no Beam.
"""
