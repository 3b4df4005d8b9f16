"""What an observer of the line measures: a front by itself, through one TCP hop (the control), and mtg before it.

For each front and feature: means of all ways, and the Kolmogorov-Smirnov distances of the control and of mtg to the bare
front. A difference counts as gone when mtg's distance is no larger than the control's plus 0.1, or the means differ by
less than 5 ms or bytes. mtg-tls is meant. Needs nginx, caddy, haproxy, openssl.
Usage: wire.py [--mtg BINARY] [--work FOLDER] [--samples N] [--fronts NAME,...] [--no-page]. Prints one table; the last line is `N passed, N failed`.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import faketls
import mtg
import obfuscated2
import segments
from daemon import Daemon, running
from flights import fresh, hellos, other_front, wait_for_samples
from front_nginx import FRONT, HOST, PROXY, SECRET, make_certificates, nginx
from line import Line, TlsLine
from score import Failed, Score
from segments import Capture, Segment
from set_up import set_up

CONTROL = ("127.0.0.1", 5443)
DC = ("127.0.0.1", 5444)
OTHER = faketls.Secret(bytes(range(16)), HOST)
KS_ROOM = 0.1
MEAN_ROOM = 5.0
FLIGHT_SECS = 5
QUIET_SECS = 0.03
END_SECS = 5
FINISHED = b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x35" + bytes(range(53))
ALERT = b"\x15\x03\x03\x00\x02\x02\x28"
CADDYFILE = """
{{
    admin off
    auto_https off
}}
https://{host}:{port} {{
    tls {work}/{host}.pem {work}/{host}.key
    root * {work}/html
    file_server
}}
"""
HAPROXY_CONF = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen control
    bind {control}
    server front {front}
"""
SHAPES = hellos(hybrid=True)
# What a client downloads from a data centre, or a visitor from the front.
PAGE_BYTES = 400_000
RECORDS = 30
# What mtg(7) says of clients that it remains.
REMAINS = {("client", "download, record bytes")}
Features = dict[str, list[float]]


@dataclass(frozen=True)
class Way:
    """A port, and the secret with which the hello there is signed."""

    address: tuple[str, int]
    secret: faketls.Secret
    is_client: bool = False


# The front as it is, one hop before it, and mtg, to its clients and to strangers.
WAYS = {
    "front": Way(FRONT, OTHER),
    "control": Way(CONTROL, OTHER),
    "client": Way(PROXY, SECRET, is_client=True),
    "stranger": Way(PROXY, OTHER),
}
ENDS = {"open": 0.0, "FIN": 100.0, "RST": 200.0}


def flight(way: Way) -> tuple[Line, float]:
    """A connection that has been answered, and the milliseconds from the last byte of the hello to the first of that."""
    line, hello = Line(way.address), faketls.signed(fresh(SHAPES[0]), way.secret)
    started = time.monotonic()
    line.send(hello)
    line.read(FLIGHT_SECS)
    took = time.monotonic() - started
    while line.read(QUIET_SECS):
        pass
    return line, took * 1000


def up_to_push(segments: list[Segment]) -> int:
    """Bytes up to the end of the first segment that is pushed."""
    total = 0
    for segment in segments:
        total += segment.length
        if segment.is_pushed:
            break
    return total


def fault(name: str, words: bytes) -> Callable[[Way, Capture], Features]:
    """The answer to a hello, and what follows a fault behind it."""

    def play(way: Way, capture: Capture) -> Features:
        line, reply_millis = flight(way)
        answer = len(line.received)
        segments = capture.segments(way.address[1], line.port, answer)
        started = time.monotonic()
        line.send(words)
        line.wait(END_SECS)
        ended = (time.monotonic() - started) * 1000
        line.close()
        return {
            "reply, ms": [reply_millis],
            "flight, bytes": [answer],
            "flight, segments": [len(segments)],
            "flight, bytes to the first push": [up_to_push(segments)],
            f"{name}: bytes": [len(line.received) - answer],
            f"{name}: end (100 FIN, 200 RST)": [ENDS[line.end]],
            f"{name}: ms": [ended],
        }

    return play


def record_lengths(received: bytes) -> list[float]:
    """Payload bytes of the first records of application data."""
    lengths, at = [], 0
    while at + 5 <= len(received) and len(lengths) < RECORDS:
        length = int.from_bytes(received[at + 3 : at + 5], "big")
        if received[at] == 0x17:
            lengths.append(float(length))
        at += 5 + length
    return lengths


def download(way: Way, capture: Capture, path: str = "/big.bin") -> Features:
    """A client fetches from its data centre, anybody else a page; after the handshake a visitor's front has tickets."""
    if way.is_client:
        line, _ = flight(way)
        before = len(line.received)
        frame, _ = obfuscated2.connect(2, obfuscated2.PADDED_INTERMEDIATE, SECRET.key)
        line.send(faketls.CHANGE_CIPHER_SPEC + b"\x17\x03\x03" + len(frame).to_bytes(2, "big") + frame)
    else:
        line = Line(way.address)
        inner = TlsLine(line, HOST)
        inner.handshake()
        answer = len(line.received)
        inner.wait(QUIET_SECS)
        before = len(line.received)
        tickets = capture.segments(way.address[1], line.port, before)
        inner.send(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    while len(line.received) - before < PAGE_BYTES and line.read(FLIGHT_SECS):
        pass
    line.reset()
    lengths = record_lengths(line.received[before:])
    # Shorter ones come when the data centre's bytes do; a page is there whole, a stream of messages is not.
    features: Features = {"download, record bytes": lengths, "download, longest record": [max(lengths)]}
    if not way.is_client:
        features["tickets, pushes"] = [sum(segment.is_pushed for segment in tickets)]
        features["tickets, bytes"] = [before - answer]
    return features


SCENES = [fault("wrong Finished", FINISHED), fault("alert", ALERT), download]


class DataCentre:
    """Sends everybody who says where it wants to go as many bytes as a page has."""

    def __init__(self) -> None:
        self._listener = socket.create_server(DC, backlog=64)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            link, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    @staticmethod
    def _serve(link: socket.socket) -> None:
        with link, suppress(OSError):
            frame = link.recv(64, socket.MSG_WAITALL)
            streams = obfuscated2.accept(frame)
            link.sendall(streams.encrypt.update(faketls.NO_PACKETS + bytes(PAGE_BYTES + 5 * RECORDS)))
            link.recv(1)


def distance(one: list[float], other: list[float]) -> float:
    """The Kolmogorov-Smirnov distance of two samples."""

    def share(samples: list[float], limit: float) -> float:
        return sum(value <= limit for value in samples) / len(samples)

    return max(abs(share(one, value) - share(other, value)) for value in one + other)


def judge(name: str, feature: str, found: dict[str, list[float]], who: str) -> None:
    """Print the table's line for one of mtg's ways, and fail if it can be told from the front."""
    front, means = found["front"], {way: statistics.fmean(values) for way, values in found.items()}
    control, ours = distance(front, found["control"]), distance(front, found[who])
    print(
        f"{name:10} {feature:40} {who:9} {means['front']:>9.2f} {means['control']:>9.2f} {means[who]:>9.2f} "
        f"{control:>8.2f} {ours:>6.2f}",
        flush=True,
    )
    apart = abs(means[who] - means["front"])
    if (who, feature) not in REMAINS and ours > control + KS_ROOM and apart >= MEAN_ROOM:
        raise Failed(f"distance {ours:.2f}, the control's is {control:.2f}; means differ by {apart:.2f}")


@contextmanager
def caddy(work: Path, index_bytes: int = 0) -> Iterator[Daemon]:
    """A front that is written in Go; its first page is so long."""
    work.mkdir(parents=True)
    make_certificates(work)
    (work / "html").mkdir()
    (work / "html/big.bin").write_bytes(os.urandom(2 * PAGE_BYTES))
    (work / "html/index.html").write_bytes(os.urandom(index_bytes))
    config = work / "Caddyfile"
    config.write_text(CADDYFILE.format(host=HOST, port=FRONT[1], work=work), "ascii")
    os.environ["HOME"] = str(work)
    command: list[str | Path] = ["caddy", "run", "--config", config, "--adapter", "caddyfile"]
    with running(command, FRONT, work / "log") as daemon:
        yield daemon


def front(name: str, work: Path) -> object:
    """The front of that name."""
    if name == "nginx":
        return nginx(work, chain=3)
    return caddy(work) if name == "caddy" else other_front(name, work)


def wait_for_sizes(proxy: mtg.Mtg) -> None:
    """Until mtg has seen the records of a page; a build without TLS cannot."""
    deadline = time.monotonic() + FLIGHT_SECS
    while "sizes of records" not in proxy.log() and time.monotonic() < deadline:
        time.sleep(0.1)
    print(next((line for line in proxy.log().splitlines() if "sizes of records" in line), "no page was measured"))


def observe(name: str, work: Path, options: object, score: Score) -> None:
    """Measure all features at one front."""
    binary, samples = options.mtg, options.samples
    settings = [
        ("secret", SECRET.hex()),
        ("domain-fronting.host", FRONT[0]),
        ("domain-fronting.port", str(FRONT[1])),
        ("dc-override.2", f"{DC[0]}:{DC[1]}"),
        # Less than the fronts bear here, so that it is they who decide.
        ("network.timeout.handshake", "1s"),
        # Thousands of connections from one address.
        ("handshakes-per-ip", "0"),
        ("log-level", "debug"),
    ]
    # gRPC has no pages.
    if has_pages := name != "boringssl":
        settings += [("defense.doppelganger.drs", "true")]
    if has_page := has_pages and not options.no_page:
        settings += [("defense.doppelganger.urls", f"https://{HOST}/big.bin")]
    # The authority of the front's certificate, which mtg-tls asks for the page.
    os.environ["SSL_CERT_FILE"] = str(work / "front/ca.pem")
    haproxy = work / "haproxy.cfg"
    work.mkdir(parents=True)
    haproxy.write_text(
        HAPROXY_CONF.format(control=f"{CONTROL[0]}:{CONTROL[1]}", front=f"{FRONT[0]}:{FRONT[1]}"), "ascii"
    )
    scenes = SCENES if has_pages else SCENES[:-1]
    with ExitStack() as stack:
        stack.enter_context(front(name, work / "front"))
        stack.enter_context(running(["haproxy", "-f", haproxy, "-db"], CONTROL, work / "haproxy.log"))
        proxy = stack.enter_context(mtg.Mtg(binary, work / "mtg", PROXY).run(settings))
        capture = stack.enter_context(Capture())
        wait_for_samples(work / "mtg", proxy)
        if has_page:
            wait_for_sizes(proxy)
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _ in range(samples):
            for scene in scenes:
                capture.forget()
                # In turn, so that a busy moment falls on all of them.
                for way, where in WAYS.items():
                    for feature, values in scene(where, capture).items():
                        found[feature][way] += values
        for feature, of_ways in found.items():
            for who in ("client", "stranger"):
                if who in of_ways:
                    score.check(f"{name}, {feature}: a {who} sees the front", lambda: judge(name, feature, of_ways, who))
        proxy.stop()


def main() -> int:
    """Observe in a network namespace of its own."""
    parser = mtg.arguments("Distances between fronts and mtg as an observer measures them.")
    parser.add_argument("--samples", type=int, default=100, help="of each feature and way")
    parser.add_argument("--no-page", action="store_true", help="for a build without TLS, which cannot measure one")
    parser.add_argument("--fronts", default="nginx,caddy,boringssl", help="which, separated by commas")
    options, work, score = set_up(parser, "wire", "caddy haproxy ip nginx openssl")
    segments.like_ethernet()
    DataCentre()
    print(f"{'front':10} {'feature':40} {'seen by':9} {'front':>9} {'control':>9} {'mtg':>9} {'KS ctrl':>8} {'KS':>6}")
    for name in options.fronts.split(","):
        score.check(f"{name}, mtg and the control start and end well", lambda: observe(name, work / name, options, score))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
