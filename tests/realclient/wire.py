"""What an observer of the line measures: a front by itself, through one TCP hop (the control), and mtg before it.

For each front and feature: means of both ways, and the Kolmogorov-Smirnov distances of the control and of mtg to the bare
front. A difference counts as gone when mtg's distance is no larger than the control's plus 0.1, or the means differ by
less than 5 ms or bytes. Usage: wire.py [--mtg BINARY] [--work FOLDER] [--samples N]. Needs nginx, caddy, haproxy, openssl.
Prints one table; the last line is `N passed, N failed`.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import faketls
import loopback_only
import mtg
from daemon import Daemon, running
from flights import fresh, hellos, other_front, wait_for_samples
from front_nginx import FRONT, HOST, PROXY, SECRET, make_certificates, nginx
from line import Line
from score import Failed, Score

CONTROL = ("127.0.0.1", 5443)
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
    respond "hello"
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
Way = tuple[tuple[str, int], faketls.Secret]
# The front as it is, one hop before it, and mtg, to its clients and to strangers.
WAYS: dict[str, Way] = {
    "front": (FRONT, OTHER),
    "control": (CONTROL, OTHER),
    "client": (PROXY, SECRET),
    "stranger": (PROXY, OTHER),
}


def client_hello(way: Way) -> bytes:
    """A real client's hello, signed with the way's secret."""
    return faketls.signed(fresh(SHAPES[0]), way[1])


def reply_millis(way: Way) -> float:
    """From the last byte of a hello to the first of its answer."""
    line = Line(way[0])
    hello = client_hello(way)
    started = time.monotonic()
    line.send(hello)
    line.read(FLIGHT_SECS)
    took = time.monotonic() - started
    line.reset()
    return took * 1000


def flight(way: Way) -> Line:
    """A connection that has been answered."""
    line = Line(way[0])
    line.send(client_hello(way))
    line.read(FLIGHT_SECS)
    while line.read(QUIET_SECS):
        pass
    return line


def flight_bytes(way: Way) -> float:
    """The length of the first flight."""
    line = flight(way)
    line.reset()
    return len(line.received)


def fault(words: bytes, of: Callable[[Line, int, float], float]) -> Callable[[Way], float]:
    """What follows a fault after the flight."""

    def measure(way: Way) -> float:
        line = flight(way)
        before, started = len(line.received), time.monotonic()
        line.send(words)
        line.wait(END_SECS)
        value = of(line, before, (time.monotonic() - started) * 1000)
        line.close()
        return value

    return measure


ENDS = {"open": 0.0, "FIN": 100.0, "RST": 200.0}
FEATURES: dict[str, Callable[[Way], float]] = {
    "reply, ms": reply_millis,
    "flight, bytes": flight_bytes,
    "wrong Finished: bytes": fault(FINISHED, lambda line, before, _: len(line.received) - before),
    "wrong Finished: end (100 FIN, 200 RST)": fault(FINISHED, lambda line, *_: ENDS[line.end]),
    "wrong Finished: ms": fault(FINISHED, lambda _, __, millis: millis),
    "alert: bytes": fault(ALERT, lambda line, before, _: len(line.received) - before),
    "alert: end (100 FIN, 200 RST)": fault(ALERT, lambda line, *_: ENDS[line.end]),
}


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
    if ours > control + KS_ROOM and abs(means[who] - means["front"]) >= MEAN_ROOM:
        raise Failed(f"distance {ours:.2f}, the control's is {control:.2f}; means differ by {means[who]:.2f}")


@contextmanager
def caddy(work: Path) -> Iterator[Daemon]:
    """A front that is written in Go."""
    work.mkdir(parents=True)
    make_certificates(work)
    config = work / "Caddyfile"
    config.write_text(CADDYFILE.format(host=HOST, port=FRONT[1], work=work), "ascii")
    os.environ["HOME"] = str(work)
    command: list[str | Path] = ["caddy", "run", "--config", config, "--adapter", "caddyfile"]
    with running(command, FRONT, work / "log") as daemon:
        yield daemon


def front(name: str, work: Path) -> object:
    """The front of that name."""
    if name == "nginx":
        return nginx(work)
    return caddy(work) if name == "caddy" else other_front(name, work)


def observe(name: str, work: Path, options: object, score: Score) -> None:
    """Measure all features at one front."""
    binary, samples = options.mtg, options.samples
    settings = [
        ("secret", SECRET.hex()),
        ("domain-fronting.host", FRONT[0]),
        ("domain-fronting.port", str(FRONT[1])),
        ("log-level", "debug"),
    ]
    haproxy = work / "haproxy.cfg"
    work.mkdir(parents=True)
    haproxy.write_text(
        HAPROXY_CONF.format(control=f"{CONTROL[0]}:{CONTROL[1]}", front=f"{FRONT[0]}:{FRONT[1]}"), "ascii"
    )
    with ExitStack() as stack:
        stack.enter_context(front(name, work / "front"))
        stack.enter_context(running(["haproxy", "-f", haproxy, "-db"], CONTROL, work / "haproxy.log"))
        proxy = stack.enter_context(mtg.Mtg(binary, work / "mtg", PROXY).run(settings))
        wait_for_samples(work / "mtg", proxy)
        for feature, measure in FEATURES.items():
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            # In turn, so that a busy moment falls on all of them.
            for _ in range(samples):
                for way, where in WAYS.items():
                    found[way].append(measure(where))
            for who in ("client", "stranger"):
                score.check(f"{name}, {feature}: a {who} sees the front", lambda: judge(name, feature, found, who))
        proxy.stop()


def main() -> int:
    """Observe in a network namespace of its own."""
    parser = mtg.arguments("Distances between fronts and mtg as an observer measures them.")
    parser.add_argument("--samples", type=int, default=100, help="of each feature and way")
    parser.add_argument("--fronts", default="nginx,caddy,boringssl", help="which, separated by commas")
    options = parser.parse_args()
    loopback_only.enter()
    work = (options.work / "wire").resolve()
    shutil.rmtree(work, ignore_errors=True)
    score = Score()
    print(f"{'front':10} {'feature':40} {'seen by':9} {'front':>9} {'control':>9} {'mtg':>9} {'KS ctrl':>8} {'KS':>6}")
    for name in options.fronts.split(","):
        score.check(f"{name}, mtg and the control start and end well", lambda: observe(name, work / name, options, score))
    return score.finish()


if __name__ == "__main__":
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    sys.exit(main())
