"""Where processes listen, as the kernel has it in /proc."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_LISTEN = "0A"  # TCP_LISTEN of linux/tcp_states.h


class Listener(NamedTuple):
    """An address that a process takes connections at."""

    pid: int
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    @property
    def on_loopback(self) -> bool:
        """Whether it can be reached from this machine alone."""
        mapped = getattr(self.address, "ipv4_mapped", None)
        return (mapped or self.address).is_loopback


def listeners(pids: Iterable[int]) -> list[Listener]:
    """The TCP addresses, of either version, that the processes listen at."""
    sockets = {
        inode: (address, port)
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for inode, address, port in _listening(Path(table))
    }
    return [Listener(pid, *sockets[inode]) for pid in pids for inode in _sockets_of(pid, sockets)]


def _listening(
    table: Path,
) -> Iterable[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Rows of /proc/net/tcp, see proc(5): the address is in words of the machine's byte order."""
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN:
            packed, _, port = fields[1].partition(":")
            words = struct.pack(f"={len(packed) // 8}I", *_words(packed))
            yield fields[9], ipaddress.ip_address(words), int(port, 16)


def _words(packed: str) -> Iterable[int]:
    return (int(packed[at : at + 8], 16) for at in range(0, len(packed), 8))


def _sockets_of(pid: int, known: Iterable[str]) -> list[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink())):
                found.add(match[1])
    return sorted(found & set(known))
