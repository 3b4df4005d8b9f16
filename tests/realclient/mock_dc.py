"""Mock Telegram data centres (DCs): the server's end of obfuscated2 and the first step of MTProto's key exchange.

A client's unencrypted `req_pq_multi` gets a valid `resPQ`; that is all that a real client needs to measure a proxy.
The next step, `req_DH_params`, gets the transport error -404, as Telegram answers when it cannot go on.
Source: https://core.telegram.org/mtproto/auth_key
"""

from __future__ import annotations

import asyncio
import os
import secrets
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import obfuscated2

REQ_PQ = 0x6046_9778
REQ_PQ_MULTI = 0xBE7E_8EF1
REQ_DH_PARAMS = 0xD712_E4BE
RES_PQ = 0x0516_2463
TL_VECTOR = 0x1CB5_C415
AUTH_KEY_NOT_FOUND = -404

# The product of two primes of Telegram's own example.
PQ = bytes.fromhex("17ED48941A08F981")
# Fingerprints of Telegram's RSA keys, production and test: a client goes on only if it knows one.
RSA_FINGERPRINTS = (0xD09D_1D85_DE64_FD85, 0xB258_98DF_208D_2603)

ADDRESSES = {dc: (f"127.0.0.{10 + dc}", 9000) for dc in range(1, 6)}
MAX_PACKET = 1 << 20
PATIENCE_SECS = 60


class BrokenProtocol(Exception):
    """The peer sent something that is not obfuscated2 or MTProto."""


@dataclass(frozen=True)
class Request:
    """One `req_pq`: the DC that it came to, and the number in the frame."""

    dc: int
    frame_dc: int


def overrides() -> list[tuple[str, str]]:
    """The settings that lead mtg to these DCs."""
    return [(f"dc-override.{dc}", f"{host}:{port}") for dc, (host, port) in ADDRESSES.items()]


class MockDataCentres:
    """DCs 1 to 5; keeps what arrived at them."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._servers: list[asyncio.Server] = []
        self.served = 0
        self.faults: list[str] = []

    async def listen(self) -> None:
        """Start DCs 1 to 5."""
        for dc, (host, port) in ADDRESSES.items():
            self._servers.append(await asyncio.start_server(self._service(dc), host, port))

    def take_requests(self) -> list[Request]:
        """The requests since the last call."""
        taken, self._requests = self._requests, []
        return taken

    def _service(self, dc: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(PATIENCE_SECS):
                    await self._talk(dc, reader, writer)
            except asyncio.IncompleteReadError as fault:
                if fault.partial:
                    self.faults.append(f"dc {dc}: cut in the middle of a packet")
            except (BrokenProtocol, obfuscated2.BadFrame) as fault:
                self.faults.append(f"dc {dc}: {fault}")
            except (OSError, TimeoutError):
                pass  # The client left without a word, which it may.
            finally:
                writer.close()

        return serve

    async def _talk(self, dc: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packets = _Packets(reader, writer, obfuscated2.accept(await reader.readexactly(obfuscated2.FRAME_SIZE)))
        while True:
            constructor, body = _unencrypted_message(await packets.read())
            if constructor in (REQ_PQ, REQ_PQ_MULTI) and len(body) >= 16:
                self.served += 1
                self._requests.append(Request(dc, packets.streams.dc))
                await packets.write(_res_pq(body[:16]))
            elif constructor == REQ_DH_PARAMS:
                await packets.write(struct.pack("<i", AUTH_KEY_NOT_FOUND))
                return
            else:
                raise BrokenProtocol(f"constructor {constructor:#010x} with {len(body)} bytes")


class _Packets:
    """MTProto's packets on an obfuscated2 connection, in the transport that the tag names."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, streams: obfuscated2.Streams
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.streams = streams

    async def _take(self, count: int) -> bytes:
        return self.streams.decrypt.update(await self._reader.readexactly(count))

    async def read(self) -> bytes:
        """The payload of one packet, padding included."""
        if self.streams.tag == obfuscated2.ABRIDGED:
            words = (await self._take(1))[0] & 0x7F
            size = 4 * (int.from_bytes(await self._take(3), "little") if words == 0x7F else words)
        else:
            size = int.from_bytes(await self._take(4), "little") & 0x7FFF_FFFF
        if not 4 <= size <= MAX_PACKET:
            raise BrokenProtocol(f"packet of {size} bytes")
        return await self._take(size)

    async def write(self, payload: bytes) -> None:
        """Send one packet."""
        if self.streams.tag == obfuscated2.ABRIDGED:
            packet = bytes([len(payload) // 4]) + payload
        else:
            if self.streams.tag == obfuscated2.PADDED_INTERMEDIATE:
                # A client takes less than 16 bytes, padding included, for a transport error.
                payload += os.urandom(secrets.randbelow(16 if len(payload) > 4 else 12))
            packet = struct.pack("<I", len(payload)) + payload
        self._writer.write(self.streams.encrypt.update(packet))
        await self._writer.drain()


def _unencrypted_message(packet: bytes) -> tuple[int, bytes]:
    """Constructor and body: auth_key_id = 0 (8) | message id (8) | size (4) | constructor (4) | body."""
    if len(packet) < 24:
        raise BrokenProtocol(f"message of {len(packet)} bytes")
    auth_key_id, _, size, constructor = struct.unpack_from("<qqiI", packet)
    if auth_key_id != 0 or not 4 <= size <= len(packet) - 20:
        raise BrokenProtocol("not an unencrypted message")
    return constructor, packet[24 : 20 + size]


def _res_pq(nonce: bytes) -> bytes:
    body = struct.pack("<I", RES_PQ) + nonce + os.urandom(16)
    body += bytes([len(PQ)]) + PQ + bytes(-(len(PQ) + 1) % 4)
    body += struct.pack(f"<Ii{len(RSA_FINGERPRINTS)}Q", TL_VECTOR, len(RSA_FINGERPRINTS), *RSA_FINGERPRINTS)
    # A server's message id is the time in units of 2^-32 s, with remainder 1 when divided by 4.
    message_id = int(time.time() * 2**32) & ~3 | 1
    return struct.pack("<qqi", 0, message_id, len(body)) + body
