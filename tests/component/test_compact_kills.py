"""A compaction killed before any of its steps: no row lost, none doubled, and the next one ends it.

The steps are Python's audit events (PEP 578) for changes and looks at the file system. A process of
its own forks once per step, so that kill -9 is the real thing and the test's process has no part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

KILL_AT_EVERY_STEP = """
import json, os, shutil, signal, sys
from pathlib import Path
from compaction_trees import CompactionTree, placed
from datetime import datetime, timezone
from beam_pipeline.files.markers import (
    Marker, digest_of, hour_of, read_marker, sizes_in, write_marker
)
from beam_pipeline.tools.compact.run import compact

root = Path(sys.argv[1])
tree = CompactionTree(root)
for hour in range(2):
    for number in range(3):
        tree.write("orders", 3600 * hour + 10 * number, [(0, 10 * hour + number)])
    tree.write("clicks", 3600 * hour, [(0, hour)])
before = placed(tree.output_dir)
for place in tree.output_dir.glob("dt=*/hour=*"):
    sizes = sizes_in(place, ".parquet")
    total = sum(sizes.values())
    start = hour_of(f"{place.parent.name}/{place.name}")
    now = datetime.now(timezone.utc)
    marker = Marker(start, 1, 0, now, len(sizes), total, digest_of(sizes), {}, {}, {})
    write_marker(place, marker, None)

def markers_are_true(output_dir):
    places = list(output_dir.glob("dt=*/hour=*"))
    return len(places) == 2 and all(
        read_marker(place).marker.sha256 == digest_of(sizes_in(place, ".parquet"))
        for place in places
    )

STEPS = {"open", "os.listdir", "os.scandir", "os.rename", "os.link", "os.mkdir", "os.remove",
         "os.rmdir", "os.chmod", "os.chown", "shutil.rmtree", "shutil.copymode"}

def run(output_dir, last_step):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event in STEPS:
            seen += 1
            if seen > last_step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    compact(output_dir, target_bytes=2**27)
    os._exit(0)

states = {}
step = 0
while True:
    output_dir = root / f"killed-{step}"
    shutil.copytree(tree.output_dir, output_dir)
    child = os.fork()
    if child == 0:
        run(output_dir, step)
    _, status = os.waitpid(child, 0)
    assert placed(output_dir) == before, f"after step {step}"
    assert markers_are_true(output_dir), f"after step {step}"
    files = len(list(output_dir.glob("dt=*/hour=*/*.parquet")))
    states[files] = states.get(files, 0) + 1
    compact(output_dir, target_bytes=2**27)
    assert placed(output_dir) == before, f"ended after step {step}"
    assert markers_are_true(output_dir), f"ended after step {step}"
    assert len(list(output_dir.glob("dt=*/hour=*/*.parquet"))) == 4
    leftovers = [path for path in (output_dir / "_tmp").rglob("*")]
    assert leftovers == [], f"{leftovers} left after step {step}"
    shutil.rmtree(output_dir)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    step += 1
print(json.dumps({"steps": step, "states": states}))
"""


@pytest.mark.slow
def test_a_kill_before_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL_AT_EVERY_STEP, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["steps"] > 40
    assert set(told["states"]) == {"8", "6", "4"}, "killed before, between and after the exchanges"
    assert told["states"]["4"] > 1
