"""The file system that a path is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_pipeline.files.mounts import file_system_of, is_local, kind_at

MOUNTS = r"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /shared rw - nfs4 server:/export rw
31 30 0:41 / /shared/scratch rw - tmpfs tmpfs rw
32 21 8:2 / /with\040blank rw - xfs /dev/sdb1 rw
33 21 0:42 / /twice rw - ext4 /dev/sdc1 rw
34 33 0:43 / /twice rw - fuse.s3fs s3fs rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "local"),
    [
        ("/home/x", "ext4", True),
        ("/shared", "nfs4", False),
        ("/shared/orders/deep", "nfs4", False),
        ("/sharedish", "ext4", True),
        ("/shared/scratch/a", "tmpfs", True),
        ("/with blank/a", "xfs", True),
        ("/twice/a", "fuse.s3fs", False),
    ],
)
def test_the_mount_that_a_path_is_on(path: str, kind: str, local: bool) -> None:
    assert kind_at(MOUNTS.replace("\\\\", "\\"), Path(path)) == kind
    assert is_local(kind) == local


def test_the_mounts_of_this_machine() -> None:
    assert file_system_of(Path("/proc/self")) == "proc"
