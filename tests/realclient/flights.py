"""mtg's replies to clients against the first flights of the front that it has learned from.

Each front is asked with hellos of real clients, as they are and without the hybrid key share; then mtg is asked with
the same hellos, signed; a long flight's segments are compared as well. Usage: flights.py [--mtg BINARY] [--work FOLDER].
Needs nginx, openssl and ip.
Prints one table; the last line is `N passed, N failed`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import faketls
import mtg
import segments
from front_nginx import FRONT, HOST, PROXY, SECRET, command, make_certificates, nginx
from line import Line
from score import Failed, Score, equal
from segments import Capture
from set_up import set_up

RARE_BYTES = 2
REPLIES = 100
# Captured flights.
CAPTURED = 20
LEARN_SECS = 90
QUIET_SECS = 0.3
# What mtg takes of each kind soon after its start.
SAMPLES = 4
AT_THE_SAME_TIME = 8
HYBRID = "11ec"
RECORDED = mtg.ROOT / "tests/data/clienthellos"


@dataclass(frozen=True)
class Choices:
    """What a ServerHello shows."""

    suite: str
    group: str
    extensions: str
    hello_length: int


@dataclass(frozen=True)
class Flight:
    """A first flight: the ServerHello's choices and the lengths of the encrypted records, headers included."""

    choices: Choices
    records: tuple[int, ...]

    @property
    def total(self) -> int:
        """Bytes of the encrypted records."""
        return sum(self.records)


def parse(received: bytes) -> Flight:
    """Take a flight apart; it must be whole and of TLS 1.3."""
    choices, records, kinds = None, [], []
    while received:
        length = int.from_bytes(received[3:5], "big")
        payload = received[5 : 5 + length]
        if len(payload) != length or received[1:3] != b"\x03\x03":
            raise Failed(f"a record with the header {received[:5].hex()} and {len(payload)} bytes")
        kinds.append(received[0])
        if received[0] == 0x16:
            choices = _choices(payload)
        elif received[0] == 0x17:
            records.append(5 + length)
        received = received[5 + length :]
    if choices is None or kinds[:2] != [0x16, 0x14] or set(kinds[2:]) != {0x17}:
        raise Failed(f"records of the kinds {kinds}")
    return Flight(choices, tuple(records))


def _choices(message: bytes) -> Choices:
    after_id = 39 + message[38]
    types, extensions, group = [], message[after_id + 5 :], ""
    while extensions:
        length = int.from_bytes(extensions[2:4], "big")
        types.append(extensions[:2].hex())
        if types[-1] == "0033":
            group = extensions[4:6].hex()
        extensions = extensions[4 + length :]
    return Choices(message[after_id : after_id + 2].hex(), group, " ".join(types), len(message))


def hellos(hybrid: bool) -> list[bytes]:
    """The recorded hellos of real clients, with their server name replaced, not signed."""
    index = json.loads((RECORDED / "index.json").read_text("utf-8"))
    return [_adapted((RECORDED / entry["file"]).read_bytes(), hybrid) for entry in index]


def _adapted(record: bytes, hybrid: bool) -> bytes:
    suites_at = 76
    extensions_at = suites_at + 2 + int.from_bytes(record[suites_at : suites_at + 2], "big") + 2
    extensions, out = record[extensions_at + 2 :], b""
    while extensions:
        kind, length = extensions[:2], int.from_bytes(extensions[2:4], "big")
        body, extensions = extensions[4 : 4 + length], extensions[4 + length :]
        if kind == b"\x00\x00":
            body = _sized(b"\x00" + _sized(HOST.encode()))
        if kind == b"\x00\x0a" and not hybrid:
            body = _sized(body[2:].replace(bytes.fromhex(HYBRID), b""))
        if kind == b"\x00\x33" and not hybrid:
            at = body.index(bytes.fromhex(HYBRID) + (1216).to_bytes(2, "big"))
            body = _sized(body[2:at] + body[at + 4 + 1216 :])
        out += kind + _sized(body)
    message = record[9:extensions_at] + _sized(out)
    return record[:3] + _sized(b"\x01" + len(message).to_bytes(3, "big") + message)


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def ask(address: tuple[str, int], hello: bytes, length: int | None = None) -> Flight:
    """The answer to a hello: of so many records, or up to a pause."""
    line = Line(address)
    line.send(hello)
    line.read(5)
    while line.read(QUIET_SECS):
        pass
    line.reset()
    flight = parse(line.received)
    if length is not None and len(flight.records) != length:
        raise Failed(f"{len(flight.records)} encrypted records")
    return flight


@contextmanager
def other_front(make: str, work: Path) -> Iterator[None]:
    """A front of `fronts.py`."""
    work.mkdir(parents=True)
    make_certificates(work)
    certificate, key = work / f"{HOST}.pem", work / f"{HOST}.key"
    # BoringSSL takes no other form.
    command("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", key, "-out", work / "key.pem")
    program = Path(__file__).with_name("fronts.py")
    words = [sys.executable, program, make, FRONT[0], str(FRONT[1]), certificate, work / "key.pem"]
    with open(work / "log", "wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while process.poll() is None:
            try:
                socket.create_connection(FRONT, timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        if process.poll() is not None:
            raise Failed(f"the front ended: {(work / 'log').read_text()[-300:]}")
        yield
    finally:
        process.kill()
        process.wait()


def wait_for_samples(work: Path, proxy: mtg.Mtg) -> None:
    """Until mtg has taken enough samples."""
    deadline = time.monotonic() + LEARN_SECS
    while (work / "stderr").read_text("utf-8", "replace").count("useful=true") < 2 * SAMPLES:
        if time.monotonic() > deadline:
            raise Failed(f"mtg has not learned from the front; {proxy.log_tail()}")
        time.sleep(0.2)


def compare(name: str, hybrid: bool, score: Score) -> None:
    """Ask the front and mtg, print the table's line, and judge."""
    shapes = hellos(hybrid)
    wanted = [shapes[number % len(shapes)] for number in range(REPLIES)]
    with ThreadPoolExecutor(AT_THE_SAME_TIME) as pool:
        fronts = list(pool.map(lambda hello: ask(FRONT, hello), wanted))
        ours = list(pool.map(lambda hello: ask(PROXY, faketls.signed(fresh(hello), SECRET), 1), wanted))
    lengths = Counter(flight.total for flight in fronts), Counter(flight.total for flight in ours)
    chosen = {flight.choices for flight in fronts}, {flight.choices for flight in ours}
    for who, flights, totals in (("front", fronts, lengths[0]), ("mtg", ours, lengths[1])):
        for choices in sorted({flight.choices for flight in flights}, key=repr):
            records = sorted({len(flight.records) for flight in flights})
            spread = " ".join(f"{total}×{count}" for total, count in sorted(totals.items()))
            offer = "hybrid" if hybrid else "classic"
            print(
                f"{name:10} {offer:8} {who:6} {choices.suite} {choices.group:5} {choices.extensions:10} "
                f"{choices.hello_length:>5} {records!s:>7}  {spread}"
            )
    what = f"{name}, {'with' if hybrid else 'without'} ML-KEM"
    score.check(f"{what}: {REPLIES} replies choose as the front does", lambda: _equal(chosen))
    score.check(f"{what}: their flights are as long as the front's", lambda: _alike(lengths))


def usual_segments() -> dict[str, str]:
    """How a flight that OpenSSL writes in two pieces looks in a capture: the front's, and mtg's replies to clients."""
    pieces: dict[str, Counter[str]] = {"front": Counter(), "mtg": Counter()}
    hello = hellos(hybrid=True)[0]
    with Capture() as capture:
        for _ in range(CAPTURED):
            for who, address in (("front", FRONT), ("mtg", PROXY)):
                line = Line(address)
                line.send(faketls.signed(fresh(hello), SECRET) if who == "mtg" else fresh(hello))
                line.read(5)
                while line.read(QUIET_SECS / 10):
                    pass
                seen = capture.segments(address[1], line.port, len(line.received))
                # The last one is as long as the signature, which varies.
                ends = [f"{segment.length}{'P' * segment.is_pushed}" for segment in seen[:-1]]
                pieces[who][" ".join([*ends, "…P" if seen[-1].is_pushed else "…"])] += 1
                line.reset()
    for who, shapes in pieces.items():
        print(f"{who:6} {', '.join(f'{shape} ×{count}' for shape, count in shapes.most_common(3))}")
    return {who: shapes.most_common(1)[0][0] for who, shapes in pieces.items()}


def _has_pieces(shape: str) -> None:
    if shape.count("P") < 2:
        raise Failed(shape)


def fresh(record: bytes) -> bytes:
    """The same hello with another session id, so that it is no replay."""
    return record[:44] + os.urandom(32) + record[76:]


def _equal(chosen: tuple[set[Choices], set[Choices]]) -> None:
    if chosen[0] != chosen[1] or len(chosen[0]) != 1:
        raise Failed(f"the front: {chosen[0]}, mtg: {chosen[1]}")


def _alike(lengths: tuple[Counter[int], Counter[int]]) -> None:
    """No length that the front does not use, and means no further apart than the front's own jitter."""
    front, ours = lengths
    # A signature has a shorter form now and then: mtg may have learned one that did not come up among these replies.
    low, high = min(front) - RARE_BYTES, max(front) + RARE_BYTES
    strange = [length for length in ours if not low <= length <= high]
    means = [sum(length * count for length, count in counter.items()) / counter.total() for counter in lengths]
    if strange or abs(means[0] - means[1]) > max(1.0, (high - low) / 2):
        raise Failed(f"the front: {dict(front)}, mtg: {dict(ours)}")


def main() -> int:
    """Compare in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("First flights of fronts and of mtg."), "flights", "ip nginx openssl")
    settings = [
        ("secret", SECRET.hex()),
        ("domain-fronting.host", FRONT[0]),
        ("domain-fronting.port", str(FRONT[1])),
        ("log-level", "debug"),
    ]
    segments.like_ethernet()
    print(f"{'front':10} {'hello':8} {'who':6} suite group extensions hello records  encrypted bytes × replies")
    for name in ("nginx", "openssl", "boringssl"):

        def looks() -> None:
            front = nginx(work / name) if name == "nginx" else other_front(name, work / name)
            with front, mtg.Mtg(options.mtg, work / f"mtg-{name}", PROXY).run(settings) as proxy:
                wait_for_samples(work / f"mtg-{name}", proxy)
                for hybrid in (True, False):
                    compare(name, hybrid, score)
                proxy.stop()

        score.check(f"{name} and mtg start and end well", looks)

    def long_flights() -> None:
        with nginx(work / "long", chain=3):
            with mtg.Mtg(options.mtg, work / "mtg-long", PROXY).run(settings) as proxy:
                wait_for_samples(work / "mtg-long", proxy)
                usual = usual_segments()
                proxy.stop()
        score.check("a long flight of OpenSSL has more than one push", lambda: _has_pieces(usual["front"]))
        same = "mtg's replies have the same segments and pushes"
        score.check(same, lambda: equal(usual["mtg"], usual["front"], "usual"))

    score.check("nginx with a long chain and mtg start and end well", long_flights)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
