"""The kernel is taken from the cache, and only if --compiled_contract allows it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from pipeline_settings import settings_of

from beam_pipeline.cli import main
from beam_pipeline.compiled.kernel import KernelLibrary
from beam_pipeline.job import with_kernel
from beam_pipeline.runtime.programs import kernel as programs


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library is in a cache that is empty."""
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path / "cache"))
    return programs._library_path()


def kernel_of(*flags: str) -> KernelLibrary | None:
    config = settings_of("--input_topics=a", *flags).ingest_config("e1")
    return with_kernel(config).rules.kernel


def test_without_a_kernel_in_the_cache_there_is_none(library: Path) -> None:
    assert not library.exists()
    assert kernel_of() is None


def test_a_kernel_in_the_cache_is_used_unless_it_is_switched_off(library: Path) -> None:
    library.parent.mkdir()
    library.write_bytes(b"code")
    assert kernel_of() == KernelLibrary(platform.machine(), library.parent.name, b"code")
    assert kernel_of("--compiled_contract=auto") == kernel_of()
    assert kernel_of("--compiled_contract=off") is None


def test_the_sources_decide_on_the_place_in_the_cache(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered = tmp_path / "kernel.zig"
    altered.write_text("other code")
    monkeypatch.setattr(programs, "_source_paths", lambda: [altered])
    assert programs._library_path() != library


def test_schema_show_prints_what_is_compiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schema.json"
    mail = {"type": "string", "format": "email"}
    properties = {"mails": {"type": "array", "items": mail}, "n": False}
    path.write_text(json.dumps({"type": "object", "properties": properties}))
    lines = [
        "compiled: 3 of 4 parts",
        "not compiled: n (the schema false)",
        "asked of jsonschema-rs: mails[]",
    ]
    assert main(["schema", "show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compiled"] == lines
    assert main(["schema", "show", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == lines
