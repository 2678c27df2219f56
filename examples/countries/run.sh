#!/usr/bin/env bash
# 254 countries, deeply nested and not all of one mind about types, through Kafka to Parquet. Takes
# --output_dir=DIR and --dead_letter_dir=DIR; exit code 0 only if every record is accounted for.
set -euo pipefail
# shellcheck source=examples/library.sh
source "$(dirname "${BASH_SOURCE[0]}")/../library.sh"
EXAMPLE=$ROOT/examples/countries
OUTPUT_DIR=data/countries/output
DEAD_LETTER_DIR=data/countries/dead
parse_directories "$@"

setup_venv runtime
WORK=$(mktemp -d)
download "$EXAMPLE/requirements.txt" "$WORK"
"$VENV/bin/python" "$EXAMPLE/events.py" "$WORK"/countryinfo-*.whl >"$WORK/countries.jsonl"

# A country has no time of its own: windows go by when Kafka got the record.
land countries "$WORK/countries.jsonl" --schema="$EXAMPLE/country.schema.yaml" \
  --window_by=append_time --window_seconds=10
