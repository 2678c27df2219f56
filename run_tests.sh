#!/usr/bin/env bash
# The whole test suite; arguments go to pytest, for example `./run_tests.sh -k parquet`.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
setup_venv test
cd "$ROOT"
exec "$VENV/bin/python" -m pytest tests/ "$@"
