#!/usr/bin/env bash
# The whole test suite, two files at a time; arguments go to pytest, which then runs one after the
# other, for example `./run_tests.sh -k parquet`.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
setup_venv test
cd "$ROOT"
# Before the first test, so that none waits for a download within its own time limit.
"$VENV/bin/python" -m beam_pipeline fetch
"$VENV/bin/python" -m beam_pipeline fetch --engine=flink ||
  printf 'The tests on Flink will be skipped\n' >&2
(($#)) || set -- --numprocesses=2 --dist=loadfile --no-loadscope-reorder
exec "$VENV/bin/python" -m pytest "$@"
