"""A network namespace that has nothing but `lo`, so that no test can reach another machine.

TDLib dials Telegram on its own as soon as it has a session; in here that fails at once with "network is unreachable".
Every port of 127.0.0.0/8 is free in a new namespace, so the tests may use fixed ones.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def enter() -> None:
    """Move this process, which must have one thread only, and its later children into a new namespace."""
    uid, gid = os.getuid(), os.getgid()
    # A container's root may lack CAP_SYS_ADMIN but still be allowed a user namespace.
    if uid != 0 or _unshare(CLONE_NEWNET) != 0:
        fault = _unshare(CLONE_NEWUSER | CLONE_NEWNET)
        if fault != 0:
            raise OSError(fault, "no network namespace (run as root, or allow user namespaces)")
        Path("/proc/self/setgroups").write_text("deny", "ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", "ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", "ascii")
    _bring_up_lo()


def use_few_ports() -> None:
    """Let clients and servers on one address get the same ports again and again, for different peers.

    Whoever takes a port for a peer is found out.
    """
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("20000 22999", "ascii")


def _unshare(flags: int) -> int:
    """Return 0, or the number of the error."""
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.unshare(flags) == 0 else ctypes.get_errno()


def _bring_up_lo() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack_from("H", answer, 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
