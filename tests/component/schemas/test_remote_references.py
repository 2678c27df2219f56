"""A schema's reference to the web is refused and never fetched."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import Judge, load_contract

MAX_VALUE_BYTES = 1_000_000


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    """A web server that serves a schema: its address, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "integer"}')

        def log_message(self, *_arguments: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "document_at",
    [
        lambda url: {"$ref": f"{url}/id.json"},
        lambda url: {"properties": {"a": {"allOf": [{"$ref": f"{url}/id.json#/x"}]}}},
        lambda url: {"$id": f"{url}/event.json", "properties": {"a": {"$ref": "id.json"}}},
        lambda url: {"properties": {"a": {"$dynamicRef": f"{url}/id.json#x"}}},
        lambda url: {"$schema": f"{url}/meta.json", "type": "object"},
    ],
    ids=["$ref", "$ref below", "$ref relative to $id", "$dynamicRef", "$schema"],
)
def test_a_remote_reference_is_refused_and_never_fetched(
    web: tuple[str, list[str]], tmp_path: Path, document_at: Callable[[str], Any]
) -> None:
    url, asked = web
    path = tmp_path / "event.schema.json"
    path.write_bytes(orjson.dumps(document_at(url)))
    with pytest.raises(UsageError) as refused:
        load_contract(path)
    assert str(refused.value).startswith(f"--schema={path}: ")
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"never fetched|not supported|Unknown meta-schema"):
        Judge(document_at(url), MAX_VALUE_BYTES)
    assert asked == []
