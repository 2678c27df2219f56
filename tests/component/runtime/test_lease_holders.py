"""The lease on an output directory, between processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.lease import hold_lease

HOLDER = """
import sys, time
from pathlib import Path
from beam_pipeline.runtime.lease import hold_lease
with hold_lease(Path(sys.argv[1]), "--output_dir"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(EnvironmentFailure, match=f"process {holder.pid} "),
            hold_lease(tmp_path, "--output_dir"),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with hold_lease(tmp_path, "--output_dir"):
        pass
