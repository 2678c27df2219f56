#!/usr/bin/env bash
# Remakes requirements/*.txt from pyproject.toml and *.in. For maintainers; needs a network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check uv==0.13.9

# --python-version is the oldest Python; markers in the result cover the newer ones.
compile() {
  local target=$1
  shift
  "$work/venv/bin/uv" pip compile --quiet --universal --generate-hashes --no-header \
    --python-version 3.10 --no-annotate --upgrade --output-file "$target" "$@"
}

compile requirements/runtime.txt pyproject.toml requirements/build.in
compile requirements/test.txt pyproject.toml requirements/build.in --extra test --extra dev \
  --constraints requirements/runtime.txt
compile requirements/java.txt requirements/java.in
compile requirements/go.txt requirements/go.in
compile requirements/flink.txt requirements/flink.in
