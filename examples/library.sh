# shellcheck shell=bash
# Sourced by examples/*/run.sh: lands a file of JSON lines through a broker of its own, and proves it.
#
#   download REQUIREMENTS DIR          fetches the packages that hold the data, checked by hash
#   land TOPIC FILE FLAGS…             sends the file's lines to TOPIC, runs the pipeline until all are
#                                      in files, and reconciles; fails unless every line is in one place

# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/setup.sh"

WORK=""
BROKER=""

end_broker() {
  if [[ -n $BROKER ]]; then
    kill "$BROKER" 2>/dev/null || true
    wait "$BROKER" 2>/dev/null || true
  fi
  [[ -z $WORK ]] || rm -rf "$WORK"
}
trap end_broker EXIT
trap 'exit 130' INT TERM

# --output_dir=DIR and --dead_letter_dir=DIR of the command line, and nothing else.
parse_directories() {
  while (($#)); do
    case $1 in
      --output_dir=*) OUTPUT_DIR=${1#*=} ;;
      --dead_letter_dir=*) DEAD_LETTER_DIR=${1#*=} ;;
      --output_dir | --dead_letter_dir)
        [[ -n ${2-} ]] || usage "$1: give a directory"
        if [[ $1 == --output_dir ]]; then OUTPUT_DIR=$2; else DEAD_LETTER_DIR=$2; fi
        shift
        ;;
      *) usage "$1: takes --output_dir=DIR and --dead_letter_dir=DIR" ;;
    esac
    shift
  done
}

usage() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

pipeline() {
  "$VENV/bin/python" -m beam_pipeline "$@"
}

download() {
  local requirements=$1 directory=$2
  mkdir -p "$directory"
  "$VENV/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
    --ignore-requires-python --require-hashes --dest "$directory" --requirement "$requirements"
}

start_broker() {
  local topic=$1 log=$WORK/broker.txt
  # Not by the function: its process would be a shell, and the broker outlive it.
  COLUMNS=200 "$VENV/bin/python" -m beam_pipeline broker --port=0 --topics="$topic:4" >"$log" 2>&1 &
  BROKER=$!
  until BOOTSTRAP=$(sed -n 's/^Kafka is up at \([^;]*\);.*/\1/p' "$log") && [[ -n $BOOTSTRAP ]]; do
    kill -0 "$BROKER" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.2
  done
}

land() {
  local topic=$1 file=$2 lines told
  shift 2
  lines=$(wc -l <"$file")
  start_broker "$topic"
  pipeline produce --kafka_bootstrap_servers="$BOOTSTRAP" --topic="$topic" --input="$file" \
    --events_per_second=0
  pipeline run --kafka_bootstrap_servers="$BOOTSTRAP" --input_topics="$topic" --until=caught_up \
    --output_dir="$OUTPUT_DIR" --dead_letter_dir="$DEAD_LETTER_DIR" "$@"
  pipeline reconcile --kafka_bootstrap_servers="$BOOTSTRAP" --input_topics="$topic" \
    --output_dir="$OUTPUT_DIR" --dead_letter_dir="$DEAD_LETTER_DIR"
  told=$(pipeline reconcile --json --kafka_bootstrap_servers="$BOOTSTRAP" --input_topics="$topic" \
    --output_dir="$OUTPUT_DIR" --dead_letter_dir="$DEAD_LETTER_DIR" |
    "$VENV/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["records"])')
  if [[ $told != "$lines" ]]; then
    printf '%s lines were sent, %s records are accounted for\n' "$lines" "$told" >&2
    exit 1
  fi
  printf 'All %s records are accounted for, in %s and %s\n' "$told" "$OUTPUT_DIR" "$DEAD_LETTER_DIR"
}
