#!/usr/bin/env bash
# How fast the pipeline is, beside others that do the same work: a table, or with `curves` plots.
# `bench/run.sh --help` and `bench/run.sh curves --help` tell the flags.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/setup.sh"
setup_venv runtime

BENCH=bench.throughput
if [[ ${1-} == curves ]]; then
  BENCH=bench.curves
  shift
fi

# The other contenders' packages, and matplotlib, have an environment of their own: Bytewax has wheels
# for Python up to 3.12, Quix Streams needs 3.11, and neither takes the pipeline's versions of
# everything.
BENCH_VENV=$ROOT/bench/.venv
LOCK=$ROOT/requirements/bench.txt

find_bench_python() {
  local candidate
  for candidate in python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys, ensurepip, venv
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "bench/run.sh: no Python 3.11 or 3.12 with its venv module found on PATH;" \
    "the other contenders need one of them (--only=prism and --only=flink do without)" >&2
  exit 1
}

make_bench_venv() {
  local python log=$ROOT/logs/bench-setup.log
  python=$(find_bench_python)
  echo "Making the other contenders' environment with $("$python" --version) ..." >&2
  rm -rf "$BENCH_VENV"
  if ! { "$python" -m venv "$BENCH_VENV" &&
    "$BENCH_VENV/bin/python" -m pip --no-input --disable-pip-version-check install --quiet \
      --require-hashes -r "$LOCK"; } >"$log" 2>&1; then
    echo "bench/run.sh: the environment can't be made: $(tail -n 1 "$log") (see $log)" >&2
    exit 1
  fi
  cp "$LOCK" "$BENCH_VENV/bench.txt" # written last: the environment is complete
}

needs_bench_venv() {
  local flag
  for flag in "$@"; do
    case $flag in
      -h | --help | --only=prism | --only=flink | --only=prism,flink | --only=flink,prism) return 1 ;;
    esac
  done
  ! cmp -s "$LOCK" "$BENCH_VENV/bench.txt"
}

if needs_bench_venv "$@"; then
  make_bench_venv
fi
cd "$ROOT"
exec "$VENV/bin/python" -m "$BENCH" "$@"
