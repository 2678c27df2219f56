#!/usr/bin/env bash
# Kafka to Parquet on Flink. Without arguments: a demo with its own cluster and broker.
# `./run_flink.sh --help` lists the commands.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
mapfile -t extras < <(extras_for "$@")
setup_venv runtime "${extras[@]}"
BEAM_PIPELINE_ENGINE=flink exec "$VENV/bin/python" -m beam_pipeline "$@"
