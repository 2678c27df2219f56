"""The trees of output files: names, footers, parts, the ledger, listings, durable writes."""
