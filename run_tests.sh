#!/usr/bin/env bash
# The whole test suite, two files at a time, with the coverage of this process's code (what child
# processes run is not measured). Arguments go to pytest, which then runs one test after the other,
# for example `./run_tests.sh -k parquet`.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
setup_venv test
cd "$ROOT"
# Before the first test, so that none waits for a download within its own time limit.
"$VENV/bin/python" -m beam_pipeline fetch
"$VENV/bin/python" -m beam_pipeline fetch --engine=flink ||
  printf 'The tests on Flink will be skipped; where CI is set they fail\n' >&2
"$VENV/bin/python" tests/stores.py
"$VENV/bin/python" tests/table_readers.py
(($#)) || set -- --numprocesses=2 --dist=loadfile --no-loadscope-reorder \
  --cov --cov-report=term:skip-covered --cov-fail-under=84
exec "$VENV/bin/python" -m pytest "$@"
