"""versitygw, an S3 server over a directory: the store of demos and tests, on loopback only."""

from __future__ import annotations

from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import (
    LOOPBACK,
    ManagedProcess,
    Service,
    free_port,
    require_free_port,
)
from beam_pipeline.runtime.programs.go import GoProgram, find_program
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.storage.durable import make_directory

_NAME = "S3 server"
# Earlier releases did not check and change an object in one step, so that two writers under
# If-None-Match could both succeed: https://github.com/versity/versitygw/pull/2288
VERSITYGW = GoProgram("versitygw", "github.com/versity/versitygw", "v1.8.0", "./cmd/versitygw")


def find_versitygw(progress: SetupProgress) -> Path:
    """Return the versitygw binary from the cache, or build it first, which takes minutes.

    Raises:
        EnvironmentFailure: it can't be built, or the one in the cache can't be executed.
    """
    return find_program(VERSITYGW, progress)


def start_versitygw(
    binary: Path,
    directory: Path,
    log_file: Path,
    *,
    access_key: str,
    secret_key: str,
    bucket: str,
    port: int = 0,
    outlives_parent: bool = False,
) -> Service:
    """Start an S3 server over a directory; return before it is ready.

    Args:
        binary: that of `find_versitygw`.
        directory: a bucket is a directory in it, an object a file. It is made when missing, on a
            file system that has extended attributes (ext4, XFS, Btrfs, tmpfs).
        log_file: the server's messages are appended to it.
        access_key, secret_key: the only ones that the server accepts.
        bucket: made when missing; at least three letters.
        port: loopback port to listen on; 0 is any free one.
        outlives_parent: leave it running when this process dies.

    Returns:
        the server; `http://<endpoint>` is its URL.

    Raises:
        EnvironmentFailure: the directory can't be made, or the port is taken.
    """
    try:
        make_directory(directory / bucket, private=True)
    except OSError as error:
        raise EnvironmentFailure(f"{_NAME}: directory {directory}: {error.strerror}") from error
    if port:
        require_free_port(_NAME, port)
    address = f"{LOOPBACK}:{port or free_port()}"
    command = [str(binary), "--port", address, "--quiet", "--keep-alive", "posix", str(directory)]
    keys = {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key}
    process = ManagedProcess(_NAME, command, log_file, env=keys, outlives_parent=outlives_parent)
    return Service(process, address)
