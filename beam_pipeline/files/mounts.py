"""The type of the file system that a directory is on, from /proc/self/mountinfo."""

from __future__ import annotations

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")

# The kernel's file systems whose files are on one machine. Network, cluster and FUSE file systems
# are not among them, nor 9p and virtiofs, which share a host's files with its guests.
_LOCAL = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs"),
        *("tmpfs", "ramfs", "overlay", "aufs", "squashfs", "erofs"),
        *("vfat", "exfat", "ntfs", "ntfs3", "hfsplus", "udf", "iso9660"),
    }
)


def is_local(kind: str) -> bool:
    """Return whether the files of such a file system are on one machine."""
    return kind in _LOCAL


def file_system_of(path: Path) -> str | None:
    """Return the type of the file system that `path` is on, or would be; None if unknown."""
    try:
        return kind_at(_MOUNTS.read_text(encoding="utf-8", errors="surrogateescape"), path)
    except OSError:
        return None


def kind_at(mountinfo: str, path: Path) -> str | None:
    """Return the type of the deepest mount above `path`; of several there, the last one.

    Args:
        mountinfo: lines as in proc(5): `36 35 98:0 /root /mount opts … - ext4 …`.
        path: a path, which need not exist.
    """
    resolved = path.resolve()
    best: tuple[int, str] | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), before.split(" ")[4]))
        depth = len(point.parts)
        if resolved.is_relative_to(point) and (best is None or depth >= best[0]):
            best = depth, after.split(" ")[0]
    return best[1] if best else None
