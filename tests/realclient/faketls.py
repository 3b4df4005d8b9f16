"""A FakeTLS client: its ClientHello, the check of the answer, and the records with obfuscated2 inside.

The hello's random is HMAC-SHA256(secret key, hello with a zero random), its last 4 bytes XORed with the Unix time
(little endian). The answer is ServerHello, ChangeCipherSpec and one application-data record; its random is
HMAC-SHA256(secret key, client random ‖ answer with a zero random).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import random
import struct
import time
from dataclasses import dataclass

import obfuscated2

HANDSHAKE = 0x16
CHANGE_CIPHER_SPEC = bytes.fromhex("140303000101")
# What the data centres of these tests say first: a packet of no bytes, so that what follows, which is random, is not
# taken for packets and their lengths.
NO_PACKETS = bytes(4)
APPLICATION_DATA = 0x17
RANDOM = slice(11, 43)
# What the proxy sends, as a server of TLS 1.3: 1 to 2^14 bytes, their type and a tag of 16 bytes.
RECEIVED = range(17, 16384 + 17 + 1)
# From a data centre that sends no packets: the proxy cannot know that more is to come, and waits for a moment only.
RECEIVED_WITHOUT_PACKETS = range(1, RECEIVED.stop)
MAX_PAYLOAD = 16384
X25519 = 0x001D
X25519_MLKEM768 = 0x11EC


class BadAnswer(Exception):
    """The proxy sent what a client refuses."""


@dataclass(frozen=True)
class Secret:
    """An `ee` secret."""

    key: bytes
    host: str

    def hex(self) -> str:
        """The text form for links and configs."""
        return "ee" + (self.key + self.host.encode("ascii")).hex()


def client_hello(secret: Secret, hybrid: bool) -> bytes:
    """A whole record; with the hybrid key share it does not fit one segment of Ethernet."""
    suites = struct.pack(">4H", 0x1301, 0x1302, 0x1303, 0xC02F)
    body = b"\x03\x03" + bytes(32) + b"\x20" + os.urandom(32)
    body += _sized(2, suites) + b"\x01\x00" + _sized(2, _extensions(secret.host, hybrid))
    handshake = b"\x01" + _sized(3, body)
    return signed(bytes([HANDSHAKE]) + b"\x03\x01" + _sized(2, handshake), secret)


def signed(record: bytes, secret: Secret, offset_secs: int = 0) -> bytes:
    """The record with digest and time in its random, by a clock that is so far off."""
    blank = bytearray(record)
    blank[RANDOM] = bytes(32)
    digest = bytearray(_hmac(secret.key, bytes(blank)))
    stamp = struct.unpack_from("<I", digest, 28)[0] ^ int(time.time()) + offset_secs
    struct.pack_into("<I", digest, 28, stamp)
    blank[RANDOM] = digest
    return bytes(blank)


def restamped(record: bytes, old: int, new: int) -> bytes:
    """What whoever has recorded a hello of the time `old` can make of it without the key: the same of the time `new`."""
    copy = bytearray(record)
    (stamp,) = struct.unpack_from("<I", copy, RANDOM.stop - 4)
    struct.pack_into("<I", copy, RANDOM.stop - 4, stamp ^ old ^ new)
    return bytes(copy)


def _extensions(host: str, hybrid: bool) -> bytes:
    name = b"\x00" + _sized(2, host.encode("ascii"))
    shares = struct.pack(">H", X25519) + _sized(2, os.urandom(32))
    groups = struct.pack(">2H", X25519, 0x0017)
    if hybrid:
        shares = struct.pack(">H", X25519_MLKEM768) + _sized(2, os.urandom(1216)) + shares
        groups = struct.pack(">H", X25519_MLKEM768) + groups
    extensions = (
        (0x0000, _sized(2, name)),
        (0x000A, _sized(2, groups)),
        (0x000D, _sized(2, bytes.fromhex("04030804040105030805050108060601"))),
        (0x0010, _sized(2, _sized(1, b"h2") + _sized(1, b"http/1.1"))),
        (0x002B, _sized(1, bytes.fromhex("03040303"))),
        (0x002D, _sized(1, b"\x01")),
        (0x0033, _sized(2, shares)),
    )
    return b"".join(struct.pack(">H", kind) + _sized(2, content) for kind, content in extensions)


def _sized(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


class FakeTlsClient:
    """One connection that the proxy has authenticated."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frame: bytes, streams: obfuscated2.Streams
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._streams = streams
        # As TDLib does: ChangeCipherSpec and the frame go out with the first bytes.
        self._first = CHANGE_CIPHER_SPEC
        self._frame = frame
        self._received = bytearray()
        self._prelude = len(NO_PACKETS)
        self._is_closed = False
        # How long records may be.
        self.receives = RECEIVED

    @classmethod
    async def connect(
        cls, address: tuple[str, int], secret: Secret, dc: int, source: str = "127.0.0.1"
    ) -> FakeTlsClient:
        """Dial from one of our own addresses and do the handshake."""
        reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
        try:
            hello = client_hello(secret, hybrid=random.random() < 0.5)
            writer.write(hello)
            await read_answer(reader, secret, hello)
        except BaseException:
            writer.transport.abort()
            raise
        tag = random.choice(obfuscated2.TAGS)
        return cls(reader, writer, *obfuscated2.connect(dc, tag, secret.key))

    async def write(self, plain: bytes) -> None:
        """Send bytes in records of random sizes."""
        pending, self._frame = self._frame + self._streams.encrypt.update(plain), b""
        while pending:
            size = random.choice((MAX_PAYLOAD, 4096, 1369))
            payload, pending = pending[:size], pending[size:]
            self._writer.write(self._first + bytes([APPLICATION_DATA]) + b"\x03\x03" + _sized(2, payload))
            self._first = b""
            await self._writer.drain()

    async def read_exactly(self, count: int) -> bytes:
        """Read so many bytes of plain text."""
        if self._prelude:
            skipped, self._prelude = self._prelude, 0
            await self.read_exactly(skipped)
        while len(self._received) < count:
            if not await self._read_record():
                raise EOFError(f"end after {len(self._received)} of {count} bytes")
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    async def expect_end(self) -> None:
        """Fail unless the other side has ended its direction with nothing left unread."""
        if self._received or await self._read_record():
            raise BadAnswer(f"{len(self._received)} bytes where the end was due")

    def half_close(self) -> None:
        """Send no more."""
        self._writer.write_eof()

    async def close(self) -> None:
        """End the connection in good order."""
        self._writer.close()
        await self._writer.wait_closed()
        self._is_closed = True

    def abort(self) -> None:
        """Drop the connection; does nothing after `close`."""
        # asyncio fails at the abort of what was closed while bytes were still to be sent.
        if not self._is_closed:
            self._writer.transport.abort()

    async def _read_record(self) -> bool:
        """Take in one record; false at an end between two records."""
        header = await self._reader.read(1)
        if not header:
            return False
        header += await self._reader.readexactly(4)
        size = int.from_bytes(header[3:], "big")
        if header[:3] != bytes([APPLICATION_DATA, 3, 3]) or size not in self.receives:
            raise BadAnswer(f"record header {header.hex()}")
        self._received += self._streams.decrypt.update(await self._reader.readexactly(size))
        return True


async def read_answer(reader: asyncio.StreamReader, secret: Secret, hello: bytes) -> None:
    """Read the proxy's three records and check their digest."""
    answer = bytearray()
    for kind in (HANDSHAKE, CHANGE_CIPHER_SPEC[0], APPLICATION_DATA):
        header = await reader.readexactly(5)
        if header[0] != kind or header[1:3] != b"\x03\x03":
            raise BadAnswer(f"record header {header.hex()} in the answer")
        answer += header + await reader.readexactly(int.from_bytes(header[3:], "big"))
    received = bytes(answer[RANDOM])
    answer[RANDOM] = bytes(32)
    if not hmac.compare_digest(received, _hmac(secret.key, hello[RANDOM] + answer)):
        raise BadAnswer("wrong digest in the answer")
