"""scripts/setup.sh knows which extras a command line needs, and what is installed already."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from beam_pipeline.resources import project_root


def bash(script: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", f'source "{directory}/scripts/setup.sh"; {script}', "test", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with what setup.sh reads, and an environment that has the runtime lock."""
    top = project_root()
    assert top is not None
    for name in ("scripts", "requirements"):
        shutil.copytree(top / name, tmp_path / name)
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/bin/true")
    (venv / "made-at").write_text(f"{tmp_path.resolve()}\n")
    shutil.copy(tmp_path / "requirements" / "runtime.txt", venv)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (["run", "--output_dir=s3://bucket/events"], "s3"),
        (["run", "--output_dir", "s3://bucket/events"], "s3"),
        (["demo", "--embedded_store"], "s3"),
        (["inspect", "az://container/events"], "azure"),
        (["run", "--output_dir=az://c/a", "--dead_letter_dir=s3://b/a"], "s3 azure"),
        (["run", "--output_dir=gs://bucket/events"], ""),
        (["demo"], ""),
        (["demo", "--table=demo.events"], "iceberg"),
        (["run", "--table", "lake.orders", "--output_dir=s3://b/a"], "s3 iceberg"),
        ([], ""),
    ],
)
def test_the_extras_of_a_command_line(checkout: Path, arguments: list[str], extras: str) -> None:
    result = bash('extras_for "$@"', checkout, *arguments)
    assert result.returncode == 0
    assert result.stdout.split() == extras.split()


def test_what_is_installed_is_known_by_its_lock(checkout: Path) -> None:
    locks, venv = checkout / "requirements", checkout / ".venv"
    assert bash("_is_complete runtime", checkout).returncode == 0
    assert bash("_is_complete runtime s3", checkout).returncode != 0
    shutil.copy(locks / "s3.txt", venv)
    assert bash("_is_complete runtime s3", checkout).returncode == 0
    assert bash("_is_complete runtime s3 azure", checkout).returncode != 0
    (locks / "s3.txt").write_text("boto3==99\n")
    assert bash("_is_complete runtime", checkout).returncode == 0
    assert bash("_is_complete runtime s3", checkout).returncode != 0
    (venv / "runtime.txt").unlink()  # a set-up that was cut
    assert bash("_is_complete runtime", checkout).returncode != 0
