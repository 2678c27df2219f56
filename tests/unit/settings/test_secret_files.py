"""A warning for files with secrets that every user of the machine can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_pipeline.settings.secret_files import open_file_warning


@pytest.mark.parametrize(
    ("mode", "content", "warns"),
    [
        (0o644, {"sasl.password": "hush"}, True),
        (0o604, {"sasl.jaas.config": 'Login required username="u" password="hush";'}, True),
        (0o644, {"s3.secret-access-key": "hush"}, True),
        (0o644, {"uri": "https://user:hush@example.com"}, True),
        (0o640, {"sasl.password": "hush"}, False),
        (0o600, {"credential": "hush"}, False),
        (0o644, {"type": "rest", "uri": "https://example.com"}, False),
    ],
)
def test_a_file_with_secrets_that_all_can_read(
    tmp_path: Path, mode: int, content: dict[str, str], warns: bool
) -> None:
    path = tmp_path / "client.properties"
    path.touch()
    path.chmod(mode)
    warning = open_file_warning("--kafka_config", path, content)
    assert (warning is not None) == warns
    if warning is not None:
        assert warning.startswith(f"--kafka_config={path} has secrets, and every user")
        assert warning.endswith(f"chmod o= {path}")
        assert "hush" not in warning
