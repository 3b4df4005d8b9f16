"""What must work through any mtg that serves, wherever it runs: transfers, the front, timers, replays.

The data centre and the front are this program's; the proxy is led to them by `settings`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable

import borrowed  # noqa: F401

import faketls
from faketls import FakeTlsClient
from fixed_front import ANSWER, FixedFront
from loop_thread import LoopThread
from pace import CHUNK, Pace
from score import Failed, Score
from soak_dc import DIGEST_SIZE, ORDER, SoakDc

SECRET = faketls.Secret(bytes.fromhex("00112233445566778899aabbccddeeff"), "front.example")
WRONG_SECRET = faketls.Secret(bytes.fromhex("55447766114422338899aabbccddeeff"), SECRET.host)
DC = 2
DC_PORT = 9000
# Not the port of the packages, which listen on all addresses.
FRONT_PORT = 8444
TRANSFER_BYTES = 8 << 20
IDLE_SECS = 2
# Fewer bytes would wait for company: no TLS 1.3 record is that short.
PING = b"ping" * 16
# An emulated processor that shares its core takes its time.
PATIENCE_SECS = 120
NO_LIMIT = 1 << 40


def settings(host: str) -> list[tuple[str, str]]:
    """The settings that lead mtg to the DC and the front, which it sees at `host`."""
    return [
        ("secret", SECRET.hex()),
        (f"dc-override.{DC}", f"{host}:{DC_PORT}"),
        ("domain-fronting.host", host),
        ("domain-fronting.port", str(FRONT_PORT)),
        ("network.timeout.idle", f"{IDLE_SECS}s"),
        ("network.timeout.handshake", f"{IDLE_SECS}s"),
        ("log-level", "debug"),
    ]


class Visits:
    """Client, DC and front around one proxy."""

    def __init__(self, proxy: tuple[str, int]) -> None:
        self._proxy = proxy
        self._pace = Pace(NO_LIMIT)
        self._dc = SoakDc(self._pace)
        self._front = FixedFront(IDLE_SECS)
        self._answered = b""

    async def listen(self, host: str) -> None:
        """Start the DC and the front."""
        await self._dc.listen(host, DC_PORT)
        await self._front.listen(host, FRONT_PORT)

    def all(self, score: Score, loop: LoopThread, where: str) -> None:
        """Every visit, each as one check."""
        for claim, visit in (
            ("8 MiB go up and arrive unchanged", self._upload),
            ("8 MiB come down and arrive unchanged", self._download),
            ("a wrong key's hello is fronted unchanged", self._wrong_key),
            ("a replayed hello is fronted", self._replay),
            ("a hello that never ends is fronted", self._cut_hello),
            ("a visitor who says nothing is closed when the front closes", self._silent),
            ("an idle client is closed in time", self._idle),
        ):
            score.check(f"{where}: {claim}", lambda visit=visit: loop.run(visit(), PATIENCE_SECS))
        score.check(f"{where}: the DC saw nothing broken", self._no_faults)

    async def _client(self) -> FakeTlsClient:
        client = await FakeTlsClient.connect(self._proxy, SECRET, DC)
        client.receives = faketls.RECEIVED_WITHOUT_PACKETS
        return client

    async def _upload(self) -> None:
        client = await self._client()
        try:
            await client.write(ORDER.pack(b"U", TRANSFER_BYTES))
            digest = hashlib.sha256()
            for _ in range(TRANSFER_BYTES // CHUNK):
                chunk = os.urandom(CHUNK)
                digest.update(chunk)
                await client.write(chunk)
            _same(digest.digest(), await client.read_exactly(DIGEST_SIZE))
        finally:
            client.abort()

    async def _download(self) -> None:
        client = await self._client()
        try:
            await client.write(ORDER.pack(b"D", TRANSFER_BYTES))
            digest = hashlib.sha256()
            for _ in range(TRANSFER_BYTES // CHUNK):
                digest.update(await client.read_exactly(CHUNK))
            _same(digest.digest(), await client.read_exactly(DIGEST_SIZE))
        finally:
            client.abort()

    async def _wrong_key(self) -> None:
        await self._is_fronted(faketls.client_hello(WRONG_SECRET, hybrid=True))

    async def _replay(self) -> None:
        hello = faketls.client_hello(SECRET, hybrid=False)
        reader, writer = await asyncio.open_connection(*self._proxy)
        try:
            writer.write(hello)
            await faketls.read_answer(reader, SECRET, hello)
            self._answered = hello
            await self._is_fronted(hello)
        finally:
            writer.transport.abort()

    def forgets_nothing(self, loop: LoopThread, restart: Callable[[], object]) -> None:
        """What was answered before a restart is fronted after it."""
        loop.run(self._replay(), PATIENCE_SECS)
        restart()
        loop.run(self._is_fronted(self._answered), PATIENCE_SECS)

    def stays_connected(self, loop: LoopThread, meanwhile: Callable[[], object]) -> None:
        """A client that does not go by itself."""
        client = loop.run(self._client(), PATIENCE_SECS)
        try:
            loop.run(_echoes(client), PATIENCE_SECS)
            meanwhile()
        finally:
            loop.run(_abort(client), PATIENCE_SECS)

    async def _cut_hello(self) -> None:
        await self._is_fronted(faketls.client_hello(SECRET, hybrid=True)[:-1])

    async def _silent(self) -> None:
        reader, writer = await asyncio.open_connection(*self._proxy)
        try:
            await _ends_in_time(reader)
        finally:
            writer.transport.abort()

    async def _idle(self) -> None:
        client = await self._client()
        try:
            await _echoes(client)
            began = time.monotonic()
            try:
                await client.expect_end()
            except ConnectionResetError:
                pass
            _took_idle_time(began)
        finally:
            client.abort()

    async def _is_fronted(self, sent: bytes) -> None:
        reader, writer = await asyncio.open_connection(*self._proxy)
        try:
            writer.write(sent)
            answer = await reader.read(-1)
        finally:
            writer.transport.abort()
        if answer != ANSWER:
            raise Failed(f"{len(answer)} bytes in place of the front's answer")
        if not self._front.saw(sent):
            raise Failed("the front did not get what was sent")

    def _no_faults(self) -> None:
        if self._dc.faults:
            raise Failed("; ".join(self._dc.faults))


async def _echoes(client: FakeTlsClient) -> None:
    await client.write(ORDER.pack(b"E", len(PING)) + PING)
    _same(PING, await client.read_exactly(len(PING)))


async def _abort(client: FakeTlsClient) -> None:
    client.abort()


async def _ends_in_time(reader: asyncio.StreamReader) -> None:
    began = time.monotonic()
    try:
        if received := await reader.read(-1):
            raise Failed(f"{len(received)} bytes where the end was due")
    except ConnectionResetError:
        pass
    _took_idle_time(began)


def _took_idle_time(began: float) -> None:
    took = time.monotonic() - began
    if not IDLE_SECS * 0.9 < took < IDLE_SECS * 10:
        raise Failed(f"took {took:.1f} s, wanted about {IDLE_SECS} s")


def _same(sent: bytes, received: bytes) -> None:
    if sent != received:
        raise Failed("bytes arrived changed")
