"""A TCP connection as a prober sees it: what came, how it ended and when."""

from __future__ import annotations

import select
import socket
import ssl
import time

CONNECT_SECS = 10
# After an end, time for the answer to one more byte.
POKE_SECS = 0.4


class Line:
    """One connection; all times are counted from its start."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=CONNECT_SECS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._started = time.monotonic()
        self.received = b""
        self.end = "open"
        self.ended_at = 0.0

    @property
    def port(self) -> int:
        """Our own; to be asked while it is open."""
        return self._socket.getsockname()[1]

    def send(self, data: bytes) -> None:
        """Send; a reset that this meets is the end."""
        if self.end in ("open", "FIN"):
            try:
                self._socket.sendall(data)
            except OSError:
                self._note("RST")

    def read(self, secs: float) -> bytes:
        """What comes within that time; at once when something does, or when it ends."""
        if self.end != "open" or not select.select([self._socket], [], [], max(secs, 0))[0]:
            return b""
        try:
            data = self._socket.recv(65536)
        except OSError:
            self._note("RST")
            return b""
        if not data:
            self._note("FIN")
        self.received += data
        return data

    def wait(self, secs: float) -> None:
        """Listen until that much time has passed or the other end has ended."""
        deadline = time.monotonic() + secs
        while self.end == "open" and (left := deadline - time.monotonic()) > 0:
            self.read(left)

    def half_close(self) -> None:
        """Say that no more will come."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._note("RST")

    def reset(self) -> None:
        """End with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        """End it."""
        self._socket.close()
        if self.end == "open":
            self._note("ours")

    def poke(self) -> str:
        """After a FIN: whether the other end still takes bytes."""
        if self.end != "FIN":
            return ""
        for _ in range(2):
            try:
                self._socket.sendall(b"\0")
            except OSError:
                return "gone"
            time.sleep(POKE_SECS)
        return "listens"

    def _note(self, end: str) -> None:
        self.end = end
        self.ended_at = time.monotonic() - self._started


class TlsLine:
    """TLS over a line, so that both what was said and how the connection ended can be seen."""

    def __init__(self, line: Line, name: str | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        self._line = line
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.plain = b""

    def handshake(self, secs: float = 5) -> None:
        """Do the handshake, or fail."""
        deadline = time.monotonic() + secs
        while True:
            try:
                self._tls.do_handshake()
                return self._flush()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._feed(deadline - time.monotonic()):
                    raise EOFError(f"the handshake ended with {self._line.end}") from None

    def send(self, plain: bytes) -> None:
        """Send a request, or a part of one."""
        self._tls.write(plain)
        self._flush()

    def wait(self, secs: float) -> None:
        """Read what comes within that time."""
        deadline = time.monotonic() + secs
        while self._line.end == "open" and (left := deadline - time.monotonic()) > 0:
            self._feed(left)
            try:
                while data := self._tls.read(65536):
                    self.plain += data
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                if not self.plain.endswith(b"<close_notify>"):
                    self.plain += b"<close_notify>"
            except ssl.SSLError as fault:
                self.plain += f"<{fault.reason}>".encode()
                return self._line.wait(deadline - time.monotonic())

    def _flush(self) -> None:
        self._line.send(self._outgoing.read())

    def _feed(self, secs: float) -> bool:
        data = self._line.read(secs)
        self._incoming.write(data)
        return bool(data)
