"""What a capture shows of TCP: how long the segments of a connection are, and which of them are pushed.

For a namespace of one's own: the loopback device gets the packets of Ethernet.
"""

from __future__ import annotations

import ctypes
import fcntl
import select
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

ETH_P_IP = 0x0800
PACKET_HOST = 0
SIOCETHTOOL = 0x8946
# ETHTOOL_STSO, ETHTOOL_SGSO and ETHTOOL_SGRO: nobody is to take packets apart or put them together later.
ETHTOOL_OFF = (0x1F, 0x24, 0x2C)
MTU = 1500
PUSH = 0x08
BUFFER_BYTES = 64 << 20
# Time for the capture to have what a connection has.
LATE_SECS = 1.0


@dataclass(frozen=True)
class Segment:
    """Payload bytes, whether it is pushed, and when it was seen."""

    length: int
    is_pushed: bool
    at: float

    def __str__(self) -> str:
        return f"{self.length}{'P' if self.is_pushed else ''}"


def like_ethernet() -> None:
    """Make lo's packets as long as those of Ethernet."""
    subprocess.run(["ip", "link", "set", "lo", "mtu", str(MTU)], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in ETHTOOL_OFF:
            off = ctypes.create_string_buffer(struct.pack("II", command, 0))
            fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP16x", b"lo", ctypes.addressof(off)))


class Capture:
    """Everything that is sent over lo while the `with` block lasts, by the ports of sender and receiver."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._socket.bind(("lo", ETH_P_IP))
        self._seen: dict[tuple[int, int], list[Segment]] = {}
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()
        self._socket.close()

    def segments(self, sender: int, receiver: int, wanted_bytes: int = 0) -> list[Segment]:
        """Those with payload that went from one port to another; waits for so many bytes of them."""
        deadline = time.monotonic() + LATE_SECS
        while True:
            found = list(self._seen.get((sender, receiver), []))
            if sum(segment.length for segment in found) >= wanted_bytes or time.monotonic() > deadline:
                return found
            time.sleep(0.001)

    def forget(self) -> None:
        """Drop what is known so far."""
        self._seen.clear()

    def _run(self) -> None:
        while not self._stop:
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            packet, (_, _, kind, *_) = self._socket.recvfrom(65536)
            if kind != PACKET_HOST or packet[23] != socket.IPPROTO_TCP:
                continue
            header = 14 + 4 * (packet[14] & 0x0F)
            sender, receiver = struct.unpack_from("!HH", packet, header)
            length = struct.unpack_from("!H", packet, 16)[0] - (header - 14) - 4 * (packet[header + 12] >> 4)
            if length > 0:
                segment = Segment(length, bool(packet[header + 13] & PUSH), time.monotonic())
                self._seen.setdefault((sender, receiver), []).append(segment)
