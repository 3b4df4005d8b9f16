"""The data centre of the soak: obfuscated2 outside, inside it orders that let a client check every byte.

An order is one letter and a size (4 bytes, little endian):
E  send the next `size` bytes back
U  take `size` bytes, answer with their SHA-256
D  send `size` bytes and their SHA-256
H  take bytes until the client ends its direction, answer with their SHA-256, end
S  send `size` bytes and their SHA-256, end this direction; take `size` bytes and their SHA-256, then the client's end
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct

import faketls
import obfuscated2
from pace import CHUNK, Pace

ORDER = struct.Struct("<cI")
DIGEST_SIZE = 32
PATIENCE_SECS = 60


class SoakDc:
    """Serves orders; keeps what went wrong with clients that it had accepted."""

    def __init__(self, pace: Pace, patience_secs: float = PATIENCE_SECS) -> None:
        self._pace = pace
        self._patience_secs = patience_secs
        self.faults: list[str] = []

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Start to serve."""
        return await asyncio.start_server(self._serve, host, port, backlog=1024)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._patience_secs):
                streams = obfuscated2.accept(await reader.readexactly(obfuscated2.FRAME_SIZE))
                await _Orders(reader, writer, streams, self._pace).serve()
        except (ValueError, obfuscated2.BadFrame) as fault:
            self.faults.append(f"dc: {fault}")
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # Some clients leave in the middle; what a good one misses, it notices itself.
        finally:
            writer.close()


class _Orders:
    """The orders of one connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, streams: obfuscated2.Streams, pace: Pace
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._streams = streams
        self._pace = pace
        self._prelude = faketls.NO_PACKETS

    async def serve(self) -> None:
        """Serve until the client has enough."""
        while first := await self._reader.read(1):
            order = first + await self._reader.readexactly(ORDER.size - 1)
            letter, size = ORDER.unpack(self._streams.decrypt.update(order))
            if letter == b"E":
                for chunk in _chunks(size):
                    await self._write(await self._take(chunk))
            elif letter == b"U":
                await self._write(await self._digest_of(size))
            elif letter == b"D":
                await self._send(size)
            elif letter == b"H":
                await self._write(await self._digest_until_end())
                return
            elif letter == b"S":
                await self._send_then_take(size)
                return
            else:
                raise ValueError(f"order {letter!r} of {size} bytes")

    async def _take(self, count: int) -> bytes:
        return self._streams.decrypt.update(await self._reader.readexactly(count))

    async def _write(self, plain: bytes) -> None:
        plain, self._prelude = self._prelude + plain, b""
        self._writer.write(self._streams.encrypt.update(plain))
        await self._writer.drain()

    async def _digest_of(self, size: int) -> bytes:
        digest = hashlib.sha256()
        for chunk in _chunks(size):
            digest.update(await self._take(chunk))
        return digest.digest()

    async def _digest_until_end(self) -> bytes:
        digest = hashlib.sha256()
        while received := await self._reader.read(CHUNK):
            digest.update(self._streams.decrypt.update(received))
        return digest.digest()

    async def _send(self, size: int) -> None:
        digest = hashlib.sha256()
        for chunk in _chunks(size):
            await self._pace.take(chunk)
            plain = os.urandom(chunk)
            digest.update(plain)
            await self._write(plain)
        await self._write(digest.digest())

    async def _send_then_take(self, size: int) -> None:
        await self._send(size)
        self._writer.write_eof()
        try:
            found = await self._digest_of(size)
            if await self._take(DIGEST_SIZE) != found or await self._reader.read(1):
                raise ValueError("an upload after our half-close arrived changed")
        except asyncio.IncompleteReadError:
            raise ValueError("an upload after our half-close was cut") from None


def _chunks(size: int) -> list[int]:
    whole, rest = divmod(size, CHUNK)
    return [CHUNK] * whole + [rest] * bool(rest)
