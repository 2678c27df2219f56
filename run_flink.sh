#!/usr/bin/env bash
# Kafka to Parquet on Flink. Without arguments: a demo with a cluster and a broker of its own.
# `./run_flink.sh --help` tells the rest.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
setup_venv runtime
exec "$VENV/bin/python" -m beam_pipeline on_flink "$@"
