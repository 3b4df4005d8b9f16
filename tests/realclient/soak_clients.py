"""The clients of the soak: good ones that check every byte, garbage, and half-open or slow ones."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import faketls
from faketls import FakeTlsClient
from fixed_front import ANSWER
from pace import CHUNK, Pace
from soak_dc import DIGEST_SIZE, ORDER

DC = 2
# Generous, as all good clients share one speed limit.
ROUND_SECS = 60
EXCHANGE_SECS = 25
ANSWER_SECS = 30
SMALLEST, LARGEST = 20_000, 300_000
# A record with an encrypted alert of TLS 1.3.
ALERT_SIZE = 24
# Good clients come from so many networks, the first of which a flood comes from, too.
SOURCES = 20
FIRST_SOURCE = 100
SHARED = f"127.{FIRST_SOURCE}.0.1"
# With this a close is a reset.
NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What went wrong with one client, and from when to when it was there."""

    kind: str
    what: str
    began: float
    ended: float

    def __str__(self) -> str:
        return f"{self.kind} {self.what}"


def any_source() -> str:
    """The address of a good client, on loopback."""
    return f"127.{FIRST_SOURCE + random.randrange(SOURCES)}.0.1"


def plain_source() -> str:
    """The address of all strangers, on loopback."""
    return "127.0.0.1"


class Clients:
    """Each public method plays one client from dialling to its end; what went wrong is kept, not raised.

    Good clients and strangers come from the addresses that their sources say, and have `patience` times as much time as
    on a quick machine.
    """

    SECRET = faketls.Secret(bytes.fromhex("a1b2c3d4e5f60718293a4b5c6d7e8f90"), "front.example")

    def __init__(
        self,
        proxy: tuple[str, int],
        pace: Pace,
        source: Callable[[], str] = any_source,
        strange_source: Callable[[], str] = plain_source,
        patience: float = 1,
    ) -> None:
        self._patience = patience
        self._proxy = proxy
        self._pace = pace
        self._source = source
        self._strange_source = strange_source
        self.done: Counter[str] = Counter()
        self.faults: list[Fault] = []

    async def good(self) -> None:
        """A client that does some exchanges and at times ends with a half-close."""
        exchanges = random.choices((_ping_pong, self._upload, self._download), k=random.randint(1, 3))
        last = random.choice((None, None, self._half_close, self._half_closed_by_dc))
        await self._play("good", ROUND_SECS, lambda: self._session([*exchanges, *([last] if last else [])]))

    async def rest(self, pings: int, pause_secs: float) -> None:
        """A phone that lies on a table: a few bytes now and then."""
        exchanges = [lambda client: _rest(client, pause_secs)] * pings
        await self._play("rest", ROUND_SECS, lambda: self._session(exchanges))

    async def garbage(self) -> None:
        """A stranger that is no client of ours; it must get the front's answer."""
        scripts = (self._noise, self._wrong_key, self._replay, self._bad_frame)
        await self._play("garbage", ANSWER_SECS, random.choice(scripts))
        await asyncio.sleep(random.uniform(0, 2))

    async def slow(self) -> None:
        """A stranger that holds a connection open and says little."""
        scripts = (self._silent, self._drip, self._cut_hello, self._no_frame)
        await self._play("slow", ANSWER_SECS, random.choice(scripts))

    async def _play(self, kind: str, secs: int, script: Callable[[], Awaitable[None]]) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(secs * self._patience):
                await script()
            self.done[kind] += 1
        except (OSError, EOFError, TimeoutError, faketls.BadAnswer) as fault:
            what = f"{_name(script)}: {type(fault).__name__} {fault}"
            self.faults.append(Fault(kind, what, began, time.monotonic()))
            await asyncio.sleep(0.5)

    # Good clients.

    async def _session(self, exchanges: list[Callable[[FakeTlsClient], Awaitable[None]]]) -> None:
        client = await FakeTlsClient.connect(self._proxy, self.SECRET, random.choice((DC, -DC)), self._source())
        client.receives = faketls.RECEIVED_WITHOUT_PACKETS
        try:
            for exchange in exchanges:
                try:
                    async with asyncio.timeout(EXCHANGE_SECS * self._patience):
                        await exchange(client)
                except (OSError, EOFError, faketls.BadAnswer) as fault:
                    raise faketls.BadAnswer(f"{_name(exchange)}: {fault!r}") from fault
            await client.close()
        finally:
            client.abort()

    async def _send(self, client: FakeTlsClient, size: int) -> bytes:
        """Send random bytes; return their digest."""
        digest = hashlib.sha256()
        while size:
            chunk = os.urandom(min(size, CHUNK))
            await self._pace.take(len(chunk))
            await client.write(chunk)
            digest.update(chunk)
            size -= len(chunk)
        return digest.digest()

    async def _upload(self, client: FakeTlsClient) -> None:
        size = random.randint(SMALLEST, LARGEST)
        await client.write(ORDER.pack(b"U", size))
        _same(await self._send(client, size), await client.read_exactly(DIGEST_SIZE))

    async def _download(self, client: FakeTlsClient) -> None:
        size = random.randint(SMALLEST, LARGEST)
        await client.write(ORDER.pack(b"D", size))
        await _take(client, size)

    async def _half_close(self, client: FakeTlsClient) -> None:
        await client.write(ORDER.pack(b"H", 0))
        sent = await self._send(client, random.randint(SMALLEST, LARGEST))
        client.half_close()
        _same(sent, await client.read_exactly(DIGEST_SIZE))
        await client.expect_end()

    async def _half_closed_by_dc(self, client: FakeTlsClient) -> None:
        size = random.randint(SMALLEST, LARGEST)
        await client.write(ORDER.pack(b"S", size))
        await _take(client, size)
        await client.expect_end()
        await client.write(await self._send(client, size))
        client.half_close()

    # Strangers.

    async def visit(self, *parts: bytes, pause_secs: float = 0.0) -> None:
        """Send the parts, read to the end, and wait for nothing but the front's answer."""
        reader, writer = await self._dial()
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause_secs)
            if random.random() < 0.5:
                writer.write_eof()
            try:
                # Whoever answers otherwise may go on for as long as it likes.
                answer = await reader.readexactly(len(ANSWER)) + await reader.read(-1)
            except asyncio.IncompleteReadError as short:
                answer = short.partial
            if answer != ANSWER:
                raise faketls.BadAnswer(f"{len(answer)} bytes in place of the front's answer")
        finally:
            writer.transport.abort()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._proxy, local_addr=(self._strange_source(), 0))

    async def record(self) -> bytes:
        """A hello that somebody on the way has seen together with its answer."""
        hello = faketls.client_hello(self.SECRET, hybrid=False)
        reader, writer = await self._dial()
        try:
            writer.write(hello)
            await faketls.read_answer(reader, self.SECRET, hello)
        finally:
            writer.transport.abort()
        return hello

    async def _noise(self) -> None:
        # Not a handshake record's first byte, so that it is the front's from the start.
        await self.visit(b"\x80" + os.urandom(random.randint(1, 3000)))

    async def _wrong_key(self) -> None:
        await self.visit(faketls.client_hello(faketls.Secret(os.urandom(16), self.SECRET.host), hybrid=True))

    async def _replay(self) -> None:
        await self.visit(await self.record())

    async def _bad_frame(self) -> None:
        """A good hello and then a frame that decrypts to nothing: mtg has to end as a TLS server does, or at once."""
        hello = faketls.client_hello(self.SECRET, hybrid=True)
        reader, writer = await self._dial()
        try:
            writer.write(hello)
            await faketls.read_answer(reader, self.SECRET, hello)
            writer.write(b"\x17\x03\x03\x00\x80" + os.urandom(128))
            left = await _until_end(reader)
            if left not in (0, ALERT_SIZE):
                raise faketls.BadAnswer(f"{left} bytes after a bad frame")
        finally:
            writer.transport.abort()

    async def _silent(self) -> None:
        await self._hold(b"")

    async def _drip(self) -> None:
        """A hello with a wrong key, sent bit by bit over seconds; still the front's."""
        hello = faketls.client_hello(faketls.Secret(os.urandom(16), self.SECRET.host), hybrid=False)
        step = random.randint(8, 40)
        await self.visit(*(hello[at : at + step] for at in range(0, len(hello), step)), pause_secs=0.25)

    async def _cut_hello(self) -> None:
        hello = faketls.client_hello(self.SECRET, hybrid=True)
        await self._hold(hello[: random.randint(1, len(hello) - 1)])

    async def _no_frame(self) -> None:
        await self._hold(faketls.client_hello(self.SECRET, hybrid=False))

    async def _hold(self, begin: bytes) -> None:
        """Send a beginning and stay for a while; leave in order or with a reset."""
        _, writer = await self._dial()
        try:
            writer.write(begin)
            await asyncio.sleep(random.uniform(0.5, 8))
            if random.random() < 0.5:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        finally:
            writer.transport.abort()


async def _ping_pong(client: FakeTlsClient) -> None:
    for _ in range(random.randint(3, 20)):
        await _echo(client)
        await asyncio.sleep(random.uniform(0.02, 0.3))


async def _rest(client: FakeTlsClient, pause_secs: float) -> None:
    await _echo(client)
    await asyncio.sleep(pause_secs)


async def _echo(client: FakeTlsClient) -> None:
    # Fewer bytes than a TLS 1.3 record has would wait for company.
    ping = os.urandom(random.randint(20, 2000))
    await client.write(ORDER.pack(b"E", len(ping)) + ping)
    _same(ping, await client.read_exactly(len(ping)))


async def _take(client: FakeTlsClient, size: int) -> None:
    digest = hashlib.sha256()
    while size:
        chunk = await client.read_exactly(min(size, CHUNK))
        digest.update(chunk)
        size -= len(chunk)
    _same(digest.digest(), await client.read_exactly(DIGEST_SIZE))


async def _until_end(reader: asyncio.StreamReader) -> int:
    """How many bytes still come; a reset is an end too."""
    try:
        return len(await reader.read(-1))
    except ConnectionResetError:
        return 0


def _same(sent: bytes, received: bytes) -> None:
    if sent != received:
        raise faketls.BadAnswer("bytes arrived changed")


def _name(script: Callable[..., object]) -> str:
    return getattr(script, "__name__", "").strip("_<>")
