#!/usr/bin/env bash
# Remakes requirements/*.txt from pyproject.toml and *.in. For maintainers; needs a network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check uv==0.13.9

# oldest_python is where the result has to run first; markers in it cover the newer ones.
oldest_python=3.10
compile() {
  local target=$1
  shift
  "$work/venv/bin/uv" pip compile --quiet --universal --generate-hashes --no-header \
    --python-version "$oldest_python" --no-annotate --upgrade --output-file "$target" "$@"
}

compile requirements/runtime.txt pyproject.toml requirements/build.in
compile requirements/test.txt pyproject.toml requirements/build.in --extra test --extra dev \
  --extra s3 --extra azure --extra iceberg --constraints requirements/runtime.txt
# An extra's own packages and what they need, in the versions of the runtime lock: it goes on top.
for extra in s3 azure iceberg; do
  "$work/venv/bin/python" -c 'import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join(project["optional-dependencies"][sys.argv[1]]))' "$extra" >"$work/$extra.in"
  compile "requirements/$extra.txt" "$work/$extra.in" --constraints requirements/runtime.txt
done
compile requirements/java.txt requirements/java.in
compile requirements/go.txt requirements/go.in
compile requirements/zig.txt requirements/zig.in
compile requirements/seaweedfs.txt requirements/seaweedfs.in # for tests alone
compile requirements/duckdb.txt requirements/duckdb.in       # for tests alone
compile requirements/flink.txt requirements/flink.in
oldest_python=3.11 # Quix Streams' oldest
compile requirements/bench.txt requirements/bench.in
