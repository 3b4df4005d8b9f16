"""Set-ups of owners that have failed once, with the very files in tests/data/cases: clients are served.

Usage: cases.py [--mtg BINARY] [--work FOLDER]. Needs ip, nginx, haproxy and openssl.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import faketls
import mtg
from daemon import Daemon, running
from front_nginx import nginx
from loop_thread import LoopThread
from pace import Pace
from score import Failed, Score
from set_up import set_up
from soak_dc import ORDER, SoakDc

CASES = mtg.ROOT / "tests/data/cases"
# As the files have them.
SECRET = faketls.Secret(bytes.fromhex("00112233445566778899aabbccddeeff"), "front.example")
PROXY, DC, SOCKS5, HAPROXY = ("127.0.0.1", 3443), ("127.0.0.12", 9000), ("127.0.0.1", 1080), ("127.0.0.1", 443)
DC_IPV6 = "2001:db8::1"
CLIENTS = 5
BYTES_PER_SEC = 10_000_000
PING_SECS = 30


async def ping(to: tuple[str, int]) -> None:
    """A client whose bytes come back from DC 2."""
    async with asyncio.timeout(PING_SECS):
        client = await faketls.FakeTlsClient.connect(to, SECRET, 2)
        try:
            sent = bytes(range(200))
            await client.write(ORDER.pack(b"E", len(sent)) + sent)
            if await client.read_exactly(len(sent)) != sent:
                raise Failed("a ping came back changed")
        finally:
            client.abort()


async def greet(to: tuple[str, int]) -> None:
    """A client whose hello is answered."""
    async with asyncio.timeout(PING_SECS):
        (await faketls.FakeTlsClient.connect(to, SECRET, 2)).abort()


class Cases:
    """The checks, with what they need."""

    def __init__(self, binary: Path, work: Path, loop: LoopThread) -> None:
        self._binary = binary
        self._work = work
        self._loop = loop

    def all(self, score: Score) -> None:
        """Run every check."""
        for reply in ("1", "2", "close", "lie"):
            score.check(
                f"clients are served through a SOCKS5 proxy without IPv6 that says {reply}",
                lambda reply=reply: self._socks(reply),
            )
        score.check("visitors who all have one address keep no client out", self._one_address)

    def _socks(self, reply: str) -> None:
        script = [sys.executable, CASES / "socks_without_ipv6.py", str(SOCKS5[1]), reply]
        with running(script, SOCKS5, self._work / f"socks-{reply}.log") as proxy, self._mtg("socks_without_ipv6.conf"):
            # One that says it has connected, and closes, is found out by the first client.
            if reply == "lie":
                with suppress(OSError, EOFError, TimeoutError):
                    self._loop.run(ping(PROXY), 2 * PING_SECS)
            for _ in range(CLIENTS):
                self._loop.run(ping(PROXY), 2 * PING_SECS)
            if f"asked for {DC[0]} {DC[1]}" not in proxy.log():
                raise Failed(f"the proxy was not asked for IPv4: {proxy.log()[-300:]}")

    def _one_address(self) -> None:
        work = self._work / "one-address"
        haproxy = ["haproxy", "-db", "-f", CASES / "one_address_for_all.haproxy.cfg"]
        with (
            nginx(work, directives="keepalive_timeout 75s;"),
            self._mtg("one_address_for_all.conf"),
            running(haproxy, HAPROXY, self._work / "haproxy.log"),
        ):
            visits = Daemon([sys.executable, "-u", CASES / "one_address_for_all.py"], self._work / "visits.log")
            greeted = 0
            try:
                # The script reads for 5 s what becomes of a connection that says nothing.
                while "a newcomer" not in visits.log():
                    self._loop.run(greet(HAPROXY), 2 * PING_SECS)
                    greeted += 1
            finally:
                visits.stop()
            if "newcomer: timed out" not in visits.log() or greeted < CLIENTS:
                raise Failed(f"{greeted} clients were answered; {visits.log()[-300:]}")
            print(f"     {greeted} clients were answered beside 299 visitors")

    @contextmanager
    def _mtg(self, name: str) -> Iterator[mtg.Mtg]:
        """mtg with the file of a case."""
        with mtg.Mtg(self._binary, self._work / name, PROXY).run_file(CASES / name) as proxy:
            yield proxy
            proxy.stop()


def main() -> int:
    """Run the checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("Set-ups of owners that have failed once."), "cases", "haproxy ip nginx openssl")
    subprocess.run(["ip", "address", "add", f"{DC_IPV6}/128", "dev", "lo"], check=True)
    with LoopThread() as loop:
        loop.run(SoakDc(Pace(BYTES_PER_SEC)).listen(*DC))
        Cases(options.mtg, work, loop).all(score)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
