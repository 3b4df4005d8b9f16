"""TDLib through mtg to mock data centres: with a config file, with `simple-run`'s link, with and without fast mode.

Usage: run.py [--mtg BINARY] [--work FOLDER]. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import faketls
import mock_dc
import mtg
from fixed_front import ANSWER, FixedFront
from loop_thread import LoopThread
from score import Failed, Score, equal
from set_up import set_up
from tdlib import Tdlib, TdlibError

SOME_DC = 2
PINGS = 3
PROXY = ("127.0.0.1", 3128)
FRONT = ("127.0.0.1", 8443)
SECRET = faketls.Secret(bytes.fromhex("00112233445566778899aabbccddeeff"), "front.example")
WRONG_SECRET = faketls.Secret(bytes.fromhex("55447766114422338899aabbccddeeff"), SECRET.host)
LINK_SECS = 5
REFUSAL_SECS = 3


class Run:
    """The parts that every check needs."""

    def __init__(self, binary: Path, work: Path, tdlib: Tdlib, dcs: mock_dc.MockDataCentres, front: FixedFront, score: Score) -> None:
        self._binary = binary
        self._work = work
        self._tdlib = tdlib
        self._dcs = dcs
        self._front = front
        self._score = score

    def all(self) -> None:
        """Run every check."""
        for fast_mode in (True, False):
            mode = f"fast-mode = {str(fast_mode).lower()}"
            settings = [("fast-mode", str(fast_mode).lower()), *mock_dc.overrides()]
            self._score.check(f"{mode}: mtg run starts and ends well", lambda: self._with_config(mode, settings))
            self._score.check(f"{mode}: the link of simple-run works", lambda: self._with_link(settings))
        self._score.check("no DC saw a broken protocol", self._no_faults)

    def _with_config(self, mode: str, settings: list[tuple[str, str]]) -> None:
        config = [
            ("secret", SECRET.hex()),
            ("domain-fronting.host", FRONT[0]),
            ("domain-fronting.port", str(FRONT[1])),
            ("log-level", "debug"),
            *settings,
        ]
        with mtg.Mtg(self._binary, self._work / "run", PROXY).run(config) as proxy:
            for dc in mock_dc.ADDRESSES:
                self._score.check(f"{mode}: TDLib reaches DC {dc}", lambda: self._reaches(dc))
            pings = f"{mode}: TDLib's ping comes back {PINGS} times"
            self._score.check(pings, lambda: self._pings(*PROXY, SECRET.hex()))
            self._score.check(f"{mode}: TDLib with a wrong key reaches no DC", self._wrong_key_is_refused)
            self._score.check(f"{mode}: a wrong key's hello goes to the front unchanged", self._wrong_key_is_fronted)
            proxy.stop()

    def _with_link(self, settings: list[tuple[str, str]]) -> None:
        with mtg.Mtg(self._binary, self._work / "simple-run", PROXY).simple_run("example.com", settings) as proxy:
            server, port, secret = _printed_link(proxy)
            equal((server, port), PROXY, "the link's server and port")
            self._pings(server, port, secret)
            proxy.stop()

    def _reaches(self, dc: int) -> None:
        self._dcs.take_requests()
        self._tdlib.reach(*PROXY, SECRET.hex(), dc)
        equal({request.dc for request in self._arrived()}, {dc}, "DCs reached")

    def _pings(self, server: str, port: int, secret: str) -> None:
        self._dcs.take_requests()
        for _ in range(PINGS):
            self._tdlib.ping(server, port, secret)
        if len(arrived := self._arrived()) < PINGS:
            raise Failed(f"{len(arrived)} requests came to a DC, wanted {PINGS}")

    def _arrived(self) -> list[mock_dc.Request]:
        """The new requests, each at the DC that its frame names."""
        requests = self._dcs.take_requests()
        strays = [request for request in requests if request.dc != abs(request.frame_dc)]
        equal(strays, [], "requests at another DC than the frame's")
        return requests

    def _no_faults(self) -> None:
        equal(self._dcs.faults, [], "faults")
        if not self._dcs.served:
            raise Failed("no DC saw anything")

    def _wrong_key_is_refused(self) -> None:
        self._dcs.take_requests()
        try:
            self._tdlib.reach(*PROXY, WRONG_SECRET.hex(), SOME_DC, REFUSAL_SECS)
        except TdlibError:
            equal(self._dcs.take_requests(), [], "requests")
        else:
            raise Failed("TDLib got through")

    def _wrong_key_is_fronted(self) -> None:
        hello = faketls.client_hello(WRONG_SECRET, hybrid=True)
        answer = b""
        with socket.create_connection(PROXY, timeout=10) as client:
            client.sendall(hello)
            while received := client.recv(4096):
                answer += received
        equal(answer, ANSWER, "answer")
        if not self._front.saw(hello):
            raise Failed("the front did not get the hello as it was sent")


def _printed_link(proxy: mtg.Mtg) -> tuple[str, int, str]:
    """Server, port and secret of the first `tg://` link on stdout."""
    deadline = time.monotonic() + LINK_SECS
    while not (found := re.search(r"tg://proxy\?\S+", proxy.stdout())):
        if time.monotonic() > deadline:
            raise Failed(f"no tg://proxy link on stdout; {proxy.log_tail()}")
        time.sleep(0.05)
    query = parse_qs(urlsplit(found.group()).query, strict_parsing=True)
    missing = {"server", "port", "secret"} - query.keys()
    if missing:
        raise Failed(f"the link has no {', '.join(sorted(missing))}")
    return query["server"][0], int(query["port"][0]), query["secret"][0]


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("TDLib through mtg to mock data centres."), "tdlib")
    dcs, front = mock_dc.MockDataCentres(), FixedFront()
    with LoopThread() as loop:
        loop.run(dcs.listen())
        loop.run(front.listen(*FRONT))
        with Tdlib(work / "database") as tdlib:
            Run(options.mtg, work, tdlib, dcs, front, score).all()
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
