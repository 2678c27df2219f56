"""The package as it is built, installed and imported by others."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from beam_pipeline import resources

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIBRARY = (ROOT / "docs/library.md").read_text(encoding="utf-8")


def finished(*command: str | Path, cwd: Path, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist of this checkout, and the wheel that is built of that sdist."""
    directory = tmp_path_factory.mktemp("built")
    finished(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory, cwd=ROOT)
    (sdist,) = directory.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory / "source", filter="data")
    (source,) = (directory / "source").iterdir()
    finished(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=source)
    return directory


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def wheel_in(directory: Path) -> Path:
    (wheel,) = directory.glob("*.whl")
    return wheel


def test_the_wheel_has_all_modules_and_resources(built: Path) -> None:
    names = names_in(wheel_in(built))
    tracked = finished("git", "ls-files", "beam_pipeline", cwd=ROOT).split()
    assert set(tracked) <= names
    assert "beam_pipeline/py.typed" in names
    found = {name.removeprefix("beam_pipeline/_resources/") for name in names if "_res" in name}
    paths = [
        resources.event_schema_path(),
        resources.dead_letter_schema_path(),
        *resources.reference_dir().iterdir(),
        *(resources.java_lock_path(name) for name in ("expansion", "kafka", "flink", "compiler")),
        *resources.java_source_dir().rglob("*.java"),
        *(resources.requirements_path(name) for name in ("java", "go", "flink", "flink-build")),
    ]
    assert {str(path.relative_to(ROOT)) for path in paths} <= found
    assert not [name for name in names if not name.startswith(("beam_pipeline/", "beam_pipeline-"))]


def test_the_metadata(built: Path) -> None:
    with zipfile.ZipFile(wheel_in(built)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
        (license_name,) = [name for name in archive.namelist() if "/licenses/" in name]
        license_text = archive.read(license_name).decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in license_text
    assert "END OF TERMS AND CONDITIONS" in license_text
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert str(metadata.get_payload()).strip() == README.strip()


def test_what_pip_installs_works_elsewhere(built: Path, tmp_path: Path) -> None:
    """Without the checkout: its help, its schema, its completion."""
    installed = tmp_path / "installed"
    finished(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
        *("--target", installed, wheel_in(built)),
        cwd=tmp_path,
    )
    command = [sys.executable, "-m", "beam_pipeline"]
    elsewhere = {"PYTHONPATH": str(installed)}
    where = finished(
        *(sys.executable, "-c", "import beam_pipeline; print(beam_pipeline.__file__)"),
        cwd=tmp_path,
        **elsewhere,
    )
    assert where.strip() == str(installed / "beam_pipeline/__init__.py")
    assert "--print_config" in finished(*command, "run", "--help", cwd=tmp_path, **elsewhere)
    shown = finished(*command, "run", "--print_config", cwd=tmp_path, **elsewhere)
    schema = Path(yaml.safe_load(shown)["schema"])
    assert schema.is_relative_to(installed)
    columns = finished(*command, "schema", "show", schema, cwd=tmp_path, **elsewhere)
    assert "event_id" in columns
    assert (installed / "bin" / "beam-pipeline").is_file()


def public_names() -> list[tuple[str, str]]:
    """(module, name) for each row of the table in docs/library.md."""
    section = LIBRARY.split("## Public API")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(beam_pipeline\.\w+)` \| (.*) \|$", section, re.M)
    return [(module, name) for module, names in rows for name in re.findall(r"`(\w+)`", names)]


@pytest.mark.parametrize(("module", "name"), public_names())
def test_the_public_api_is_there_and_says_what_it_does(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    assert inspect.getdoc(found)
    assert name in getattr(importlib.import_module(module), "__all__", [name])


def test_the_public_api_is_whole() -> None:
    names = public_names()
    assert len(names) > 20
    transforms = importlib.import_module("beam_pipeline.io")
    assert {name for module, name in names if module == "beam_pipeline.io"} == set(
        transforms.__all__
    )
    assert set(transforms.__all__) <= set(dir(transforms))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = transforms.nothing


def test_the_example_of_the_library_page_writes_a_file(tmp_path: Path) -> None:
    example, *_ = re.findall(r"```python\n(.*?)```", LIBRARY, re.S)
    ast.parse(example)
    finished(sys.executable, "-c", example, cwd=tmp_path, PYTHONPATH=str(ROOT))
    read = "import pyarrow.parquet as pq; print(pq.read_table('clicks').num_rows)"
    assert finished(sys.executable, "-c", read, cwd=tmp_path).strip() == "2"


def test_the_examples_of_testing_hold(tmp_path: Path) -> None:
    section = LIBRARY.split("## Test your transforms")[1].split("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(examples) == 2
    for example in examples:
        finished(sys.executable, "-c", example, cwd=tmp_path, PYTHONPATH=str(ROOT))


def test_pre_commit_runs_the_checks_of_ci() -> None:
    """The tools are those of .venv, and what CI checks besides the tests is checked."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repo,) = config["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    entries = {hook["entry"] for hook in repo["hooks"]}
    ci = re.findall(
        r'^check "\$VENV/bin/(\w+)"(?: (check|format))?', (ROOT / ".ci/run").read_text(), re.M
    )
    assert len(ci) == len(entries) == 4
    for tool, verb in ci:
        assert [entry for entry in entries if entry.startswith(f".venv/bin/{tool} {verb}".strip())]
