"""Settings for Beam's own downloader, which sets no timeout and warns about each address."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator

_TIMEOUT_SECONDS = 20.0
_LOGGER = "apache_beam.utils.subprocess_server"
_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def beam_download_settings() -> Iterator[None]:
    """While any thread is inside, sockets time out and Beam's downloader logs errors only.

    What is downloaded is locked and checked, so the warnings tell a user nothing to act on.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _apply(_TIMEOUT_SECONDS, logging.ERROR)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _apply(None, logging.NOTSET)


def _apply(timeout_seconds: float | None, level: int) -> None:
    socket.setdefaulttimeout(timeout_seconds)
    logging.getLogger(_LOGGER).setLevel(level)
