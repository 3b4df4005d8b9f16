"""A real HAProxy in front of mtg, as one machine and as two: clients get through and mtg knows their addresses.

Usage: balancer_haproxy.py [--mtg BINARY] [--work FOLDER]. Needs haproxy.
HAProxy is the front, too: it answers strangers with the address that the PROXY header from mtg tells it.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import errno
import re
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import faketls
import mock_dc
import mtg
from daemon import Daemon, eventually, running
from loop_thread import LoopThread
from score import Failed, Score, equal
from set_up import set_up
from tdlib import Tdlib

FIRST, SECOND = ("127.0.0.1", 3128), ("127.0.0.1", 3129)
VERSION_1, VERSION_2, PAIR = ("127.0.0.1", 4001), ("127.0.0.1", 4002), ("127.0.0.1", 4003)
BY_HELLO = ("127.0.0.1", 4004)
FRONT = ("127.0.0.1", 8443)
# The balancer's connections come from here, so that they cannot be taken for a client's.
BALANCER = "127.0.0.77"
SECRET = faketls.Secret(bytes.fromhex("00112233445566778899aabbccddeeff"), "front.example")
STRANGERS = [f"127.0.1.{last}" for last in range(1, 25)]
ANSWER_SECS = 20
HAPROXY_CONF = """
global
    maxconn 500
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen version-1
    bind {version_1}
    server only {first} send-proxy source {balancer} check check-send-proxy inter 500ms
listen version-2
    bind {version_2}
    server only {first} send-proxy-v2 source {balancer} check check-send-proxy inter 500ms
listen pair
    bind {pair}
    balance source
    hash-type consistent
    option redispatch
    server first {first} send-proxy-v2 source {balancer} check check-send-proxy inter 500ms fall 1
    server second {second} send-proxy-v2 source {balancer} check check-send-proxy inter 500ms fall 1
# Each machine knows the hellos that it has answered itself. So a hello that somebody has recorded has to come to the
# machine that knows it, whoever repeats it: the hello's digest decides before the source does. The clock behind the digest
# does not, for whoever has a recording can change it.
listen pair-by-hello
    bind {by_hello}
    tcp-request inspect-delay 2s
    tcp-request content accept if {{ req.len ge 43 }}
    balance source
    hash-type consistent
    stick-table type binary len 28 size 100k expire 1d
    stick on req.payload(11,28)
    option redispatch
    server first {first} send-proxy-v2 source {balancer} check check-send-proxy inter 500ms fall 1
    server second {second} send-proxy-v2 source {balancer} check check-send-proxy inter 500ms fall 1
frontend front
    mode http
    bind {front} accept-proxy
    http-request return status 200 content-type text/plain lf-string "you are %[src]"
"""


def start_haproxy(work: Path, stack: ExitStack) -> Daemon:
    """HAProxy with all its ports."""
    names = dict(version_1=VERSION_1, version_2=VERSION_2, pair=PAIR, by_hello=BY_HELLO)
    names.update(front=FRONT, first=FIRST, second=SECOND)
    config = work / "haproxy.conf"
    texts = {name: f"{host}:{port}" for name, (host, port) in names.items()}
    config.write_text(HAPROXY_CONF.format(balancer=BALANCER, **texts), "ascii")
    return stack.enter_context(running(["haproxy", "-db", "-f", config], FRONT, work / "haproxy.log"))


class Balanced:
    """The checks, with what they need."""

    def __init__(self, proxies: tuple[mtg.Mtg, mtg.Mtg], tdlib: Tdlib, dcs: mock_dc.MockDataCentres) -> None:
        self._first, self._second = proxies
        self._tdlib = tdlib
        self._dcs = dcs

    def all(self, score: Score) -> None:
        """Run every check."""
        score.check("both are up in the eyes of HAProxy's health checks", self._is_up)
        for name, address in (("send-proxy", VERSION_1), ("send-proxy-v2", VERSION_2)):
            score.check(f"TDLib's ping comes back through {name}", lambda: self._ping(address))
            score.check(f"strangers see the front through {name}, and it sees them", lambda: self._strangers(address))
        score.check("a client's address is in the log, the balancer's is not", self._addresses)
        score.check("a connection that is not the balancer's is closed", self._untrusted)
        score.check("TDLib's ping comes back through the pair", lambda: self._ping(PAIR))
        score.check("the pair shares the strangers, each of them to one machine", self._shares)
        score.check("TDLib's ping comes back through the pair that shares by hello", lambda: self._ping(BY_HELLO))
        score.check("a hello that is repeated from elsewhere goes to the front", self._replays)
        score.check("one of the pair stops and everybody goes on", self._fails_over)

    def _is_up(self) -> None:
        for address in (VERSION_1, VERSION_2, PAIR, BY_HELLO):
            eventually(f"an answer through port {address[1]}", ANSWER_SECS, lambda: _visit("127.0.0.1", address))

    def _ping(self, address: tuple[str, int]) -> None:
        self._dcs.take_requests()
        self._tdlib.ping(*address, SECRET.hex())
        if not self._dcs.take_requests():
            raise Failed("no DC was reached")

    def _strangers(self, address: tuple[str, int]) -> None:
        for source in STRANGERS[:5]:
            equal(_visit(source, address), f"you are {source}", "the front's answer")

    def _addresses(self) -> None:
        served = re.compile(r"connection ended .* ip=127\.0\.0\.1 dc=[1-5] reason=(served|client_reset)")
        eventually("TDLib's address in the log", ANSWER_SECS, lambda: served.search(self._first.log()))
        for source in STRANGERS[:5]:
            words = f" ip={source} "
            eventually(f"{source} in the log", ANSWER_SECS, lambda: words in self._first.log())
        lines = [line for line in self._first.log().splitlines() if f"ip={BALANCER}" in line]
        # Health checks are the balancer's own.
        equal([line for line in lines if "reason=silent" not in line], [], "lines about the balancer")

    def _untrusted(self) -> None:
        equal(_visit("127.0.2.1", FIRST), "", "answer")
        line = "connection refused ip=127.0.2.1 reason=untrusted_balancer"
        eventually("the refusal in the log", ANSWER_SECS, lambda: line in self._first.log())

    def _shares(self) -> None:
        for _ in range(3):
            for source in STRANGERS:
                equal(_visit(source, PAIR), f"you are {source}", "the front's answer")
        eventually("all visits in the logs", ANSWER_SECS, lambda: sum(map(len, self._visits())) >= 3 * len(STRANGERS))
        first, second = map(set, self._visits())
        if not first or not second:
            raise Failed(f"{len(first)} strangers on one machine, {len(second)} on the other")
        equal(first & second, set(), "strangers on both machines")

    def _visits(self) -> tuple[list[str], list[str]]:
        """Whom each of the pair has served since the last of the first five, who came before."""
        ended = re.compile(r"connection ended .* ip=(127\.0\.1\.\d+) ")
        first, second = (ended.findall(proxy.log()) for proxy in (self._first, self._second))
        # Five came to the first one alone, through each of its own two ports.
        return first[10:], second

    def _replays(self) -> None:
        for _ in range(5):
            now, hello = int(time.time()), faketls.client_hello(SECRET, hybrid=False)
            first_byte = {b"\x16"}
            # Copies tell other times, too: the clock is not part of what the digest covers.
            for later, source in enumerate(STRANGERS[:10]):
                answer = _exchange(source, BY_HELLO, faketls.restamped(hello, now, now + later))
                # The first one is answered as a client; what HAProxy says to TLS bytes is an HTTP error.
                equal({answer[:1]}, first_byte, "the first byte of the answer")
                first_byte = {b"H"}

    def _fails_over(self) -> None:
        self._second.stop()
        down = "the strangers of the one that stopped"
        for source in STRANGERS:
            eventually(down, ANSWER_SECS, lambda: _visit(source, PAIR) == f"you are {source}")
        self._ping(PAIR)


def _visit(source: str, address: tuple[str, int]) -> str:
    """The body of the answer to a web page's request; empty if there is none."""
    answer = _exchange(source, address, b"GET / HTTP/1.1\r\nHost: front.example\r\nConnection: close\r\n\r\n")
    return answer.rpartition(b"\r\n\r\n")[2].decode("ascii", "replace")


def _exchange(source: str, address: tuple[str, int], request: bytes) -> bytes:
    """Send this and nothing more; return all that comes back."""
    answer = b""
    try:
        with socket.create_connection(address, timeout=ANSWER_SECS, source_address=(source, 0)) as stranger:
            stranger.sendall(request)
            stranger.shutdown(socket.SHUT_WR)
            while received := stranger.recv(65536):
                answer += received
    except OSError as fault:
        if not isinstance(fault, ConnectionError) and fault.errno != errno.ENOTCONN:
            raise
    return answer


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("HAProxy in front of mtg."), "haproxy", "haproxy")
    settings = [
        ("secret", SECRET.hex()),
        ("proxy-protocol-listener", "true"),
        ("proxy-protocol-trusted", BALANCER),
        ("domain-fronting.host", FRONT[0]),
        ("domain-fronting.port", str(FRONT[1])),
        ("domain-fronting.proxy-protocol", "true"),
        ("log-level", "debug"),
        *mock_dc.overrides(),
    ]
    dcs = mock_dc.MockDataCentres()

    def everything() -> None:
        with LoopThread() as loop, ExitStack() as stack:
            loop.run(dcs.listen())
            first = stack.enter_context(mtg.Mtg(options.mtg, work / "first", FIRST).run(settings))
            second = stack.enter_context(mtg.Mtg(options.mtg, work / "second", SECOND).run(settings))
            start_haproxy(work, stack)
            tdlib = stack.enter_context(Tdlib(work / "database"))
            Balanced((first, second), tdlib, dcs).all(score)
            first.stop()

    score.check("HAProxy and mtg start and end well", everything)
    score.check("no DC saw a broken protocol", lambda: equal(dcs.faults, [], "faults"))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
