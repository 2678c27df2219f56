#!/usr/bin/env bash
# Kafka to Parquet on Prism, Beam's local runner. Without arguments: a demo with its own broker.
# `./run_direct.sh --help` lists the commands.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/setup.sh"
mapfile -t extras < <(extras_for "$@")
setup_venv runtime "${extras[@]}"
exec "$VENV/bin/python" -m beam_pipeline "$@"
