#!/usr/bin/env bash
# The whole test suite, two files at a time; arguments go to pytest, which then runs one after the
# other, for example `./run_tests.sh -k parquet`.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
setup_venv test
cd "$ROOT"
(($#)) || set -- --numprocesses=2 --dist=loadfile
exec "$VENV/bin/python" -m pytest tests/ "$@"
