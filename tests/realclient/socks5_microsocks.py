"""A real SOCKS5 server, microsocks, between mtg and the data centres; and one that never answers.

Usage: socks5_microsocks.py [--mtg BINARY] [--work FOLDER]. Needs microsocks.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import faketls
import mock_dc
import mtg
from daemon import Daemon, eventually, running
from loop_thread import LoopThread
from score import Failed, Score, equal
from set_up import set_up
from tdlib import Tdlib, TdlibError

PROXY = ("127.0.0.1", 3128)
OPEN, LOCKED, SILENT = ("127.0.0.1", 1080), ("127.0.0.1", 1081), ("127.0.0.1", 1082)
USER, PASSWORD, WRONG_PASSWORD = "mtg", "p@ss:word", "hunter2hunter2"
SECRET = faketls.Secret(bytes.fromhex("00112233445566778899aabbccddeeff"), "front.example")
PINGS = 10
LOG_SECS = 20
REFUSAL_SECS = 6
TCP_LIMIT_SECS = 1
# The breaker must not forget failures between two pings of a slow machine.
BREAKER = "?open_threshold=2&reset_failures_timeout=10m"


class Through:
    """The checks, with what they need."""

    def __init__(self, binary: Path, work: Path, tdlib: Tdlib, dcs: mock_dc.MockDataCentres) -> None:
        self._binary = binary
        self._work = work
        self._tdlib = tdlib
        self._dcs = dcs

    def all(self, score: Score) -> None:
        """Run every check."""
        score.check("TDLib's ping comes back through microsocks", self._plain)
        score.check("TDLib's ping comes back with user name and password", self._right_password)
        score.check("a wrong password reaches no DC and is not logged", self._wrong_password)
        score.check("no password where one is wanted reaches no DC", self._no_password)
        score.check("a proxy that never answers ends streams in time, then is left alone", self._silent)
        score.check("others go on beside a proxy that never answers", self._silent_and_open)
        score.check("one of two proxies stops and the pings go on", self._stops)

    def _plain(self) -> None:
        with self._microsocks(OPEN) as microsocks, self._mtg("plain", f"socks5://{_text(OPEN)}"):
            self._pings(3)
            targets = [f"connected to {_text(address)}" for address in mock_dc.ADDRESSES.values()]
            eventually("a DC in its log", LOG_SECS, lambda: any(target in microsocks.log() for target in targets))

    def _right_password(self) -> None:
        login = ("-u", USER, "-P", PASSWORD)
        with self._microsocks(LOCKED, *login), self._mtg("right", _with_login(PASSWORD)) as proxy:
            self._pings(3)
            self._has_no_password(proxy, PASSWORD)

    def _wrong_password(self) -> None:
        login = ("-u", USER, "-P", PASSWORD)
        with self._microsocks(LOCKED, *login), self._mtg("wrong", _with_login(WRONG_PASSWORD)) as proxy:
            self._is_refused()
            words = "it refuses the user name or the password"
            eventually("the reason in the log", LOG_SECS, lambda: words in proxy.log())
            self._has_no_password(proxy, WRONG_PASSWORD)

    def _no_password(self) -> None:
        login = ("-u", USER, "-P", PASSWORD)
        with self._microsocks(LOCKED, *login), self._mtg("none", f"socks5://{_text(LOCKED)}") as proxy:
            self._is_refused()
            words = "it wants a user name and a password"
            eventually("the reason in the log", LOG_SECS, lambda: words in proxy.log())

    def _silent(self) -> None:
        with _silence(), self._mtg("silent", f"socks5://{_text(SILENT)}{BREAKER}") as proxy:
            for _ in range(2):
                self._is_refused()
            eventually("the breaker to open", LOG_SECS, lambda: "fails and is left alone" in proxy.log())
            self._is_refused()
            times = re.findall(r"reason=dc_unreachable .*ms=(\d+)", proxy.log())
            longest = max(map(int, times))
            if not TCP_LIMIT_SECS * 900 <= longest <= (2 * TCP_LIMIT_SECS + 3) * 1000:
                raise Failed(f"a stream took {longest} ms")
            words = "left alone for a while, because it failed"
            eventually("a stream without a wait", LOG_SECS, lambda: words in proxy.log())

    def _silent_and_open(self) -> None:
        urls = (f"socks5://{_text(SILENT)}{BREAKER}", f"socks5://{_text(OPEN)}")
        with _silence(), self._microsocks(OPEN), self._mtg("both", *urls) as proxy:
            deadline = time.monotonic() + 60
            while "fails and is left alone" not in proxy.log():
                self._pings(1)
                if time.monotonic() > deadline:
                    raise Failed("the breaker did not open")
            began = time.monotonic()
            self._pings(PINGS)
            if (took := time.monotonic() - began) > PINGS * TCP_LIMIT_SECS / 2:
                raise Failed(f"{PINGS} pings took {took:.1f} s beside an open breaker")

    def _stops(self) -> None:
        login = ("-u", USER, "-P", PASSWORD)
        urls = (_with_login(PASSWORD), f"socks5://{_text(OPEN)}")
        with self._microsocks(LOCKED, *login) as locked, self._microsocks(OPEN), self._mtg("stops", *urls):
            self._pings(PINGS)
            locked.stop()
            self._pings(PINGS)

    def _pings(self, count: int) -> None:
        self._dcs.take_requests()
        for _ in range(count):
            self._tdlib.ping(*PROXY, SECRET.hex())
        if (arrived := len(self._dcs.take_requests())) < count:
            raise Failed(f"{arrived} requests came to a DC, wanted {count}")

    def _is_refused(self) -> None:
        self._dcs.take_requests()
        try:
            self._tdlib.reach(*PROXY, SECRET.hex(), 2, REFUSAL_SECS)
        except TdlibError:
            equal(self._dcs.take_requests(), [], "requests")
        else:
            raise Failed("TDLib got through")

    def _has_no_password(self, proxy: mtg.Mtg, password: str) -> None:
        for text in (password, _percent(password)):
            if text in proxy.log():
                raise Failed("the password is in the log")

    @contextmanager
    def _microsocks(self, address: tuple[str, int], *login: str) -> Iterator[Daemon]:
        host, port = address
        command: list[str | Path] = ["microsocks", "-i", host, "-p", str(port), *login]
        with running(command, address, self._work / f"microsocks-{port}.log") as microsocks:
            yield microsocks

    @contextmanager
    def _mtg(self, name: str, *proxies: str) -> Iterator[mtg.Mtg]:
        settings = [
            ("secret", SECRET.hex()),
            ("log-level", "debug"),
            ("network.timeout.tcp", f"{TCP_LIMIT_SECS}s"),
            *(("network.proxies", f"'{proxy}'") for proxy in proxies),
            *mock_dc.overrides(),
        ]
        with mtg.Mtg(self._binary, self._work / name, PROXY).run(settings) as proxy:
            yield proxy
            proxy.stop()


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def _with_login(password: str) -> str:
    return f"socks5://{USER}:{_percent(password)}@{_text(LOCKED)}"


def _percent(text: str) -> str:
    return "".join(c if c.isalnum() else f"%{ord(c):02X}" for c in text)


@contextmanager
def _silence() -> Iterator[None]:
    """A port that takes connections and never answers: the kernel accepts them, and nobody else does."""
    with socket.create_server(SILENT, backlog=512):
        yield


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("mtg through SOCKS5 proxies."), "socks5", "microsocks")
    dcs = mock_dc.MockDataCentres()
    with LoopThread() as loop, ExitStack() as stack:
        loop.run(dcs.listen())
        tdlib = stack.enter_context(Tdlib(work / "database"))
        Through(options.mtg, work, tdlib, dcs).all(score)
    score.check("no DC saw a broken protocol", lambda: equal(dcs.faults, [], "faults"))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
