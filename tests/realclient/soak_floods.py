"""Every flood at once, for the soak: a process of its own, so that it does not slow down the clients that are checked.

Each kind in FLOODS has so many visitors at a time, from addresses of its own; each comes again when it is done. A flood
needs no answer, and what becomes of its connections is not judged here.
Usage: soak_floods.py HOST PORT METRICS_PORT SECRET SERVER NETWORK SHARED, until it is killed. SERVER is our own address
as mtg sees it, NETWORK the first number of the addresses that the floods come from, SHARED one of the clients'.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable

import faketls
import obfuscated2
from fixed_front import ENDLESS
from score import Failed

LIST_PORT = 8001
# The number of a DC and its port. One sends without end, the other reads nothing.
ENDLESS_DC, DEAF_DC = (3, 9003), (4, 9004)
# Addresses of a flood, in a network of its own.
ADDRESSES = 4
STAY_SECS = 10
# What a visitor sends that is not read, at most.
STUFFING = 1 << 20
NO_LINGER = struct.pack("ii", 1, 0)
BLOCK = b"\x55" * 65536

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Floods:
    """Each public method but `run` plays one visitor; its argument is the visitor's address."""

    def __init__(
        self, proxy: tuple[str, int], metrics: tuple[str, int], secret: faketls.Secret, network: str, shared: str
    ) -> None:
        self._network = network
        self._shared = shared
        self._proxy = proxy
        self._metrics = metrics
        self._secret = secret
        self._known = faketls.client_hello(secret, hybrid=True)

    async def run(self) -> None:
        """All floods, for ever."""
        visitors = []
        for number, (visit, count, is_behind_the_clients) in enumerate(FLOODS):
            for visitor in range(count):
                own = f"{self._network}.{20 + number}.0.{1 + visitor % ADDRESSES}"
                visitors.append(self._again(visit, self._shared if is_behind_the_clients else own))
        await asyncio.gather(*visitors)

    async def _again(self, visit: Callable[[Floods, str], Awaitable[None]], address: str) -> None:
        for _ in itertools.count():
            await asyncio.sleep(random.uniform(0, 0.5))
            try:
                async with asyncio.timeout(2 * STAY_SECS):
                    await visit(self, address)
            except (OSError, EOFError, TimeoutError, faketls.BadAnswer):
                pass

    async def _visit(self, address: str, words: bytes, stay_secs: float, to: tuple[str, int] | None = None) -> None:
        """Say something, read nothing, stay; then leave in order or with a reset."""
        _, writer = await asyncio.open_connection(*(to or self._proxy), local_addr=(address, 0), limit=1)
        try:
            writer.transport.pause_reading()
            writer.write(words)
            await asyncio.sleep(random.uniform(stay_secs / 2, stay_secs))
            if random.random() < 0.5:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        finally:
            writer.transport.abort()

    async def silence(self, address: str) -> None:
        """Nothing at all."""
        await self._visit(address, b"", STAY_SECS)

    async def visit(self, address: str) -> None:
        """A visit of the site that is kept open."""
        await self._visit(address, b"GET / HTTP/1.1\r\n\r\n", STAY_SECS)

    async def slow_reader(self, address: str) -> None:
        """A page without end that is not read."""
        await self._visit(address, ENDLESS, STAY_SECS)

    async def stuffing(self, address: str) -> None:
        """More than the front reads of somebody whose answer is not read."""
        await self._visit(address, ENDLESS + bytes(STUFFING), STAY_SECS)

    async def half_hello(self, address: str) -> None:
        """A hello of ours that is not whole."""
        await self._visit(address, faketls.client_hello(self._secret, hybrid=True)[:300], STAY_SECS)

    async def huge_hello(self, address: str) -> None:
        """All but the end of a hello that fills its record."""
        start = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"
        await self._visit(address, start + b"\x11" * 15_900, STAY_SECS)

    async def garbage(self, address: str) -> None:
        """Random bytes."""
        await self._visit(address, os.urandom(random.randint(1, 3000)), 1)

    async def replay(self, address: str) -> None:
        """A hello that was answered once, with another clock each time."""
        again = faketls.restamped(self._known, 0, random.randint(0, 1 << 20))
        await self._visit(address, again, 1)

    async def reset(self, address: str) -> None:
        """A visit that is over before it has begun."""
        _, writer = await asyncio.open_connection(*self._proxy, local_addr=(address, 0))
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        writer.transport.abort()

    async def metrics(self, address: str) -> None:
        """A visitor of the metrics that sends without end."""
        _, writer = await asyncio.open_connection(*self._metrics, local_addr=(address, 0))
        try:
            while True:
                writer.write(b"GET /metrics HTTP/1.1\r\n\r\n" * 100)
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            writer.transport.abort()

    async def slow_client(self, address: str) -> None:
        """A client that reads nothing."""
        await self._client(address, ENDLESS_DC[0], b"\x55" * 64)

    async def pushing_client(self, address: str) -> None:
        """A client that sends more than its DC reads."""
        await self._client(address, DEAF_DC[0], bytes(STUFFING))

    async def _client(self, address: str, dc: int, plain: bytes) -> None:
        reader, writer = await asyncio.open_connection(*self._proxy, local_addr=(address, 0), limit=4096)
        try:
            hello = faketls.client_hello(self._secret, hybrid=False)
            writer.write(hello)
            await faketls.read_answer(reader, self._secret, hello)
            client = faketls.FakeTlsClient(
                reader, writer, *obfuscated2.connect(dc, obfuscated2.TAGS[0], self._secret.key)
            )
            writer.transport.pause_reading()
            async with asyncio.timeout(STAY_SECS):
                await client.write(plain)
            await asyncio.sleep(STAY_SECS)
        finally:
            writer.transport.abort()


# What is done, by how many at the same time, and whether from an address of the clients that are checked.
FLOODS: list[tuple[Callable[[Floods, str], Awaitable[None]], int, bool]] = [
    (Floods.silence, 150, False),
    (Floods.visit, 100, False),
    (Floods.slow_reader, 50, False),
    (Floods.stuffing, 20, False),
    (Floods.half_hello, 100, False),
    (Floods.half_hello, 50, True),
    (Floods.huge_hello, 100, False),
    (Floods.garbage, 20, False),
    (Floods.replay, 10, False),
    (Floods.reset, 10, False),
    (Floods.metrics, 5, False),
    (Floods.slow_client, 50, False),
    (Floods.pushing_client, 50, False),
]


async def _endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(BLOCK)
            await writer.drain()
            await asyncio.sleep(0.01)
    except OSError:
        pass
    finally:
        writer.transport.abort()


async def _list(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"# nothing\n" * 1000)
            await writer.drain()
    except (OSError, EOFError):
        pass
    finally:
        writer.transport.abort()


async def _deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()
    try:
        # Its client leaves after that.
        await asyncio.sleep(3 * STAY_SECS)
    finally:
        writer.transport.abort()
        del reader


def settings(server: str) -> list[tuple[str, str]]:
    """What leads mtg to the servers of the floods."""
    return [
        *((f"dc-override.{number}", f"{server}:{port}") for number, port in (ENDLESS_DC, DEAF_DC)),
        ("defense.blocklist.urls", f"http://{server}:{LIST_PORT}/"),
    ]


def start(
    proxy: tuple[str, int], metrics_port: int, secret: faketls.Secret, server: str, network: str, shared: str
) -> subprocess.Popen[bytes]:
    """Every flood, in a process of its own."""
    words = [proxy[0], str(proxy[1]), str(metrics_port), secret.hex(), server, network, shared]
    return subprocess.Popen([sys.executable, __file__, *words], stdin=subprocess.DEVNULL)


async def _main(arguments: list[str]) -> None:
    host, port, metrics_port, secret, server, network, shared = arguments
    raw = bytes.fromhex(secret)
    if raw[0] != 0xEE:
        raise Failed("the secret does not start with ee")
    secret_of = faketls.Secret(raw[1:17], raw[17:].decode("ascii"))
    for serve, own_port in ((_list, LIST_PORT), (_endless, ENDLESS_DC[1]), (_deaf, DEAF_DC[1])):
        await asyncio.start_server(serve, server, own_port, backlog=1024, limit=4096)
    await Floods((host, int(port)), (host, int(metrics_port)), secret_of, network, shared).run()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
