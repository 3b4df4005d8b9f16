"""The same probes played against a bare nginx and against mtg in front of it; whatever a prober can see must be equal.

Usage: probes.py [--mtg BINARY] [--work FOLDER] [--scale N]. Prints one table; the last line is `N passed, N failed`.
"""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import faketls
import mtg
from front_nginx import FRONT, HOST, PROXY, RSA, SECRET, Visitor, nginx
from line import Line, TlsLine
from score import Failed, Score
from set_up import set_up

# Short, so that the test is; mtg keeps its own limits, which are longer. Seconds, times what --scale says.
NGINX_LIMITS = (
    ("client_header_timeout", 3),
    ("client_body_timeout", 3),
    ("send_timeout", 3),
    ("keepalive_timeout", 4),
    ("lingering_time", 3),
    ("lingering_timeout", 2),
)
WATCH_SECS = 7.0
# A bare nginx's own jitter on a busy machine, and the 10 ms that mtg waits for a hello.
TOLERANCE_SECS = 0.4
# Ends earlier than this are "at once".
AT_ONCE_SECS = 1.5
AT_THE_SAME_TIME = 12
REQUEST = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
OTHER = faketls.Secret(bytes(range(16)), HOST)


@dataclass
class Seen:
    """What a prober has seen."""

    reply: str
    end: str
    at: float
    after: str = ""

    def class_of_time(self) -> str:
        """The time as the table has it."""
        if self.end == "open":
            return "-"
        return "at once" if self.at < AT_ONCE_SECS else f"{self.at:.2f} s"


class Target:
    """nginx itself, or mtg in front of it."""

    def __init__(self, work: Path, address: tuple[str, int], through: bool, watch_secs: float) -> None:
        self.address = address
        self.watch_secs = watch_secs
        self.through = through
        self.visitor = Visitor(work, address)


Probe = Callable[[Target], Seen]
PROBES: list[tuple[str, Probe]] = []


def probe(name: str) -> Callable[[Probe], Probe]:
    """Add a probe to the battery."""

    def add(play: Probe) -> Probe:
        PROBES.append((name, play))
        return play

    return add


# Bytes, seconds to wait, "half-close" and "reset"; a callable makes bytes anew for each connection.
Part = bytes | float | str | Callable[[], bytes]


def play_parts(line: Line, parts: tuple[Part, ...], inner: TlsLine | None = None) -> bool:
    """Do what a probe consists of, within TLS if there is an inner line, and say whether there is more to see."""
    for part in parts:
        match part:
            case bytes():
                (inner or line).send(part)
            case float():
                (inner or line).wait(part)
            case "half-close":
                line.half_close()
            case "reset":
                line.reset()
                return False
            case _:
                line.send(part())
    return True


def sent(name: str, *parts: Part) -> None:
    """Add a probe in plain."""

    def play(target: Target) -> Seen:
        line = Line(target.address)
        return watched(target, line) if play_parts(line, parts) else Seen("", "ours", 0)

    PROBES.append((name, play))


def watched(target: Target, line: Line, plain: bytes | None = None) -> Seen:
    """Listen to the end, and poke."""
    line.wait(target.watch_secs)
    seen = Seen(shown(line.received) if plain is None else text(plain), line.end, line.ended_at, line.poke())
    line.close()
    return seen


def text(plain: bytes) -> str:
    """An HTTP answer without the time of day."""
    return re.sub(r"(?m)^(date: ).*\r$", r"\1\r", plain.decode("latin-1"), flags=re.IGNORECASE)


def shown(received: bytes) -> str:
    """What is not random: of TLS, kinds, versions and lengths of records, the choices of a ServerHello, alerts."""
    if not received or received[0] not in (0x14, 0x15, 0x16, 0x17):
        return text(received)
    parts, rest = [], received
    while rest:
        length = int.from_bytes(rest[3:5], "big")
        payload, header = rest[5 : 5 + length], rest[:5].hex()
        if rest[0] == 0x15:
            header += " " + payload.hex()
        elif rest[0] == 0x16 and payload[:1] == b"\x02":
            after_id = 39 + payload[38]
            choices = payload[after_id : after_id + 3].hex()
            header += f" {choices} {' '.join(_extension_types(payload[after_id + 5 :]))}"
        parts.append(header)
        rest = rest[5 + length :]
    return " | ".join(parts)


def _extension_types(extensions: bytes) -> list[str]:
    types = []
    while len(extensions) >= 4:
        length = int.from_bytes(extensions[2:4], "big")
        group = extensions[4:6].hex() if extensions[:2] == b"\0\x33" else ""
        types.append(extensions[:2].hex() + group)
        extensions = extensions[4 + length :]
    return types


def hello(secret: faketls.Secret = OTHER) -> bytes:
    """A hello that no proxy with our secret accepts, unless it is given that."""
    return faketls.client_hello(secret, hybrid=False)


def changed(at: int, value: bytes) -> Callable[[], bytes]:
    """A hello with other bytes at an offset of its record."""

    def make() -> bytes:
        record = bytearray(hello())
        record[at : at + len(value)] = value
        return bytes(record)

    return make


def rebuilt(change: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    """A hello whose extensions went through `change`, lengths mended."""

    def make() -> bytes:
        body = hello()[9:]
        head, extensions = body[: 35 + 32 + 2 + 8 + 2], body[35 + 32 + 2 + 8 + 4 :]
        extensions = change(extensions)
        body = head + len(extensions).to_bytes(2, "big") + extensions
        message = b"\x01" + len(body).to_bytes(3, "big") + body
        return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message

    return make


def sni(body: bytes) -> Callable[[bytes], bytes]:
    """Put another body into the server_name extension, which is the first."""

    def change(extensions: bytes) -> bytes:
        length = int.from_bytes(extensions[2:4], "big")
        return b"\0\0" + len(body).to_bytes(2, "big") + body + extensions[4 + length :]

    return change


def in_records(record: bytes, sizes: list[int], version: bytes = b"\x03\x01") -> bytes:
    """The same message in records of these sizes; the last takes the rest."""
    payload, out = record[5:], b""
    for size in [*sizes, len(payload)]:
        part, payload = payload[:size], payload[size:]
        if part:
            out += b"\x16" + version + len(part).to_bytes(2, "big") + part
    return out


SUITES_AT = 5 + 4 + 2 + 32 + 1 + 32

sent("silence")
sent("end before any byte", "half-close")
sent("one byte of a hello, then silence", b"\x16")
sent("one byte of garbage, then silence", b"\x80")
sent("a record header, then silence", b"\x16\x03\x01\x02\x00")
sent("half a hello, then silence", lambda: hello()[:150])
sent("a hello but for its last byte, then silence", lambda: hello()[:-1])
sent("our own hello but for its last byte", lambda: hello(SECRET)[:-1])
sent("half a hello, a pause, another part", lambda: hello()[:100], 1.5, b"\x00" * 20)
sent("half a hello, half-close", lambda: hello()[:150], "half-close")
sent("half a hello, pause, half-close", lambda: hello()[:150], 1.0, "half-close")
sent("half a hello, RST", lambda: hello()[:150], 0.5, "reset")
sent("a hello, half-close", hello, "half-close")
sent("HTTP GET in plain", REQUEST)
sent("HTTP GET in plain, then more", REQUEST, 0.5, REQUEST)
sent("HTTP POST in plain", b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")
sent("HTTP/2 preface in plain", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
sent("SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n")
sent("garbage of 2000 bytes", b"\x80" + bytes(range(1, 200)) * 10)
sent("garbage of 200000 bytes", b"\x81" + bytes(range(1, 201)) * 1000)
sent("garbage in a handshake record", b"\x16\x03\x01\x02\x00" + bytes(range(7, 207)) * 3)
sent("an alert first", b"\x15\x03\x01\x00\x02\x02\x28")
sent("application data first", b"\x17\x03\x03\x00\x05hello")
sent("a ChangeCipherSpec first", b"\x14\x03\x03\x00\x01\x01")
sent("a hello of SSL 2", b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(37))
sent("an empty handshake record", b"\x16\x03\x01\x00\x00")
sent("a record of 65535 bytes announced", b"\x16\x03\x01\xff\xff")
sent("a message of 65536 bytes announced", b"\x16\x03\x01\x40\x00\x01\x01\x00\x00\x03\x03")
sent("a ServerHello instead", changed(5, b"\x02"))
sent("record version 0300", changed(1, b"\x03\x00"))
sent("record version 0304", changed(1, b"\x03\x04"))
sent("record version 0203", changed(1, b"\x02\x03"))
sent("hello version 0301", changed(9, b"\x03\x01"))
sent("a session id of 33 bytes", changed(43, b"\x21"))
sent("an odd number of suite bytes", changed(SUITES_AT, b"\x00\x07"))
sent("no suites", changed(SUITES_AT, b"\x00\x00"))
sent("GREASE suites only", changed(SUITES_AT + 2, b"\x0a\x0a\x1a\x1a\x2a\x2a\x3a\x3a"))
sent("no compression method", changed(SUITES_AT + 10, b"\x00"))
sent("extensions of length 0", changed(SUITES_AT + 12, b"\x00\x00"))
sent("extensions longer than the hello", changed(SUITES_AT + 12, b"\xff\xff"))
sent("an extension longer than all", changed(SUITES_AT + 16, b"\xff\xff"))
sent("a key share cut off", rebuilt(lambda extensions: extensions[:-40]))
sent("a server name of type 5", rebuilt(sni(b"\x00\x10\x05\x00\x0d" + HOST.encode())))
sent("a server name list of a wrong length", rebuilt(sni(b"\x00\x11\x00\x00\x0d" + HOST.encode())))
sent("a server name that is cut off", rebuilt(sni(b"\x00\x10\x00\x00\x20" + HOST.encode())))
sent("an empty server name list", rebuilt(sni(b"\x00\x00")))
sent("the same extension twice", rebuilt(lambda extensions: extensions + extensions[: 4 + 18]))
sent("a hello in 12 records", lambda: in_records(hello(), [1] * 11))
sent("a hello in 40 records", lambda: in_records(hello(), [4] * 39))
sent("a second record of another type", lambda: in_records(hello(), [50])[:55] + b"\x17\x03\x01\x00\x05hello")
sent("a hello with an empty record inside", lambda: in_records(hello(), [50])[:55] + b"\x16\x03\x01\x00\x00")
sent("a hello with garbage behind it", lambda: hello() + b"garbage")
sent("a hello of another key", hello)
sent("a hello of another host", lambda: hello(faketls.Secret(SECRET.key, "other.example")))
sent("a hello without a host", lambda: faketls.signed(rebuilt(lambda extensions: extensions[4 + 18 :])(), SECRET))
sent("a hello an hour old", lambda: faketls.signed(hello(SECRET), SECRET, -3600))
sent("a hello an hour ahead", lambda: faketls.signed(hello(SECRET), SECRET, 3600))


def used(target: Target) -> bytes:
    """A hello that mtg has answered once; nginx knows nothing of that."""
    record = hello(SECRET)
    if target.through:
        line = Line(target.address)
        line.send(record)
        line.wait(2)
        if not re.fullmatch(r"160303\w{4} .* \| 1403030001 \| 170303\w{4}", shown(line.received)):
            raise Failed(f"mtg did not answer a client: {shown(line.received)}")
        line.close()
    return record


@probe("a replayed hello")
def _replayed(target: Target) -> Seen:
    record, line = used(target), Line(target.address)
    line.send(record)
    return watched(target, line)


@probe("a replayed hello in two records")
def _replayed_in_two(target: Target) -> Seen:
    record, line = used(target), Line(target.address)
    line.send(in_records(record, [60]))
    return watched(target, line)


@probe("a hello byte by byte")
def _byte_by_byte(target: Target) -> Seen:
    line = Line(target.address)
    for byte in hello():
        line.send(bytes([byte]))
        line.wait(0.004)
    return watched(target, line)


@probe("a hello too slow for nginx")
def _too_slow(target: Target) -> Seen:
    line, record = Line(target.address), hello()
    for at in range(0, 70, 10):
        line.send(record[at : at + 10])
        # The last piece is sent before the patience of the front is over: a later one meets a FIN or an RST by chance.
        line.wait(0.4)
    return watched(target, line)


def tls(name: str, *parts: Part, host: str | None = HOST, version: str = "TLSv1_3") -> None:
    """Add a probe that speaks TLS: a handshake, then the parts."""

    def play(target: Target) -> Seen:
        line = Line(target.address)
        inner = TlsLine(line, host, ssl.TLSVersion[version])
        inner.handshake()
        if not play_parts(line, parts, inner):
            return Seen(text(inner.plain), "ours", 0)
        inner.wait(target.watch_secs)
        return watched(target, line, inner.plain)

    PROBES.append((name, play))


def after_flight(name: str, *parts: Part) -> None:
    """Add a probe that goes on wrongly after the answer to a hello: nginx's own flight, mtg's reply to a client."""

    def play(target: Target) -> Seen:
        line = Line(target.address)
        line.send(hello(SECRET))
        line.read(5)
        line.wait(0.5)
        flight = len(line.received)
        play_parts(line, parts)
        line.wait(target.watch_secs)
        seen = Seen(shown(line.received[flight:]), line.end, line.ended_at, line.poke())
        line.close()
        return seen

    PROBES.append((f"after the flight: {name}", play))


CCS = b"\x14\x03\x03\x00\x01\x01"
FINISHED = b"\x17\x03\x03\x00\x35" + bytes(range(53))
after_flight("silence")
after_flight("a wrong Finished", CCS + FINISHED)
after_flight("a wrong Finished without a ChangeCipherSpec", FINISHED)
after_flight("half of a Finished", CCS + FINISHED[:30])
after_flight("a record of 5 bytes", CCS + b"\x17\x03\x03\x00\x05hello")
after_flight("a record of 500 bytes", b"\x17\x03\x03\x01\xf4" + bytes(500))
after_flight("an empty record", CCS + b"\x17\x03\x03\x00\x00")
after_flight("an alert", b"\x15\x03\x03\x00\x02\x02\x28")
after_flight("an alert's header", b"\x15\x03\x03\x00\x02")
after_flight("three quarters of a record", CCS + b"\x17\x03\x03\x00\xc8" + bytes(150))
after_flight("33 ChangeCipherSpecs", CCS * 33)
after_flight("a close_notify", b"\x15\x03\x03\x00\x02\x01\x00")
after_flight("two ChangeCipherSpecs, then silence", CCS, 0.2, CCS)
after_flight("a wrong ChangeCipherSpec", b"\x14\x03\x03\x00\x01\x02")
after_flight("a handshake record", CCS + b"\x16\x03\x03\x00\x28" + bytes(40))
after_flight("too long a record", CCS + b"\x17\x03\x03\x41\x01" + bytes(100))
after_flight("a record of another version", b"\x17\x03\x01\x00\x35" + bytes(53))
after_flight("garbage", b"\x80" + bytes(99))
after_flight("half-close", "half-close")
tls("TLS 1.3, a handshake and silence")
tls("TLS 1.3, a page, then idle keep-alive", REQUEST)
tls("TLS 1.3, two pages with a pause", REQUEST, 2.0, REQUEST)
tls("TLS 1.3, half a request, then silence", REQUEST[:10])
tls("TLS 1.3, a page, then half-close", REQUEST, 0.5, "half-close")
tls("TLS 1.3, half-close, then the page", REQUEST, "half-close")
tls("TLS 1.3, a page, then RST", REQUEST, 1.0, "reset")
tls("TLS 1.3, Connection: close", REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
tls("TLS 1.3, a bad request", b"\x01\x02\r\n\r\n")
tls("TLS 1.3, a body that does not come", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123")
tls("TLS 1.3, another host", REQUEST, host="wrong.example")
tls("TLS 1.3, no host", REQUEST, host=None)
tls("TLS 1.2, a page, then idle keep-alive", REQUEST, version="TLSv1_2")
tls("TLS 1.2, no host, silence", host=None, version="TLSv1_2")


def tool(name: str, look: Callable[[Visitor], str]) -> None:
    """Add a probe by curl or openssl."""
    PROBES.append((name, lambda target: Seen(text(look(target.visitor).encode()), "ours", 0)))


for _option in ("--http1.1", "--http2", "--tls-max=1.2"):
    _words = _option.split("=")
    tool(f"curl {_option}", lambda who, words=_words: who.curl("--include", *words, paths=("/", "/no-such-page")))
_NAMES = (("right", ["-servername", HOST]), ("wrong", ["-servername", "x.example"]), ("no", ["-noservername"]))
for _name, _words in _NAMES:
    for _version in ("-tls1_3", "-tls1_2"):
        tool(f"openssl {_version}, {_name} SNI", lambda who, words=(*_words, _version): who.handshake(*words))


def differences(bare: Seen, through: Seen) -> list[str]:
    """In what a prober could tell them apart."""
    found = [what for what in ("reply", "end", "after") if getattr(bare, what) != getattr(through, what)]
    if bare.end not in ("open", "ours") and abs(bare.at - through.at) > TOLERANCE_SECS:
        found.append("time")
    return found


def play_all(bare: Target, through: Target, score: Score) -> None:
    """Play the battery and print the table."""

    def play(entry: tuple[str, Probe]) -> tuple[Seen, Seen] | BaseException:
        try:
            return entry[1](bare), entry[1](through)
        except (Failed, OSError, EOFError, ssl.SSLError) as fault:
            return fault

    with ThreadPoolExecutor(AT_THE_SAME_TIME) as pool:
        results = list(pool.map(play, PROBES))
    print(f"{'probe':46} {'reply':>8} {'end':>5} {'after':>8} {'nginx':>9} {'mtg':>9}  same")
    for number, (entry, result) in enumerate(zip(PROBES, results, strict=True)):
        if not isinstance(result, tuple) or differences(*result):
            # A busy machine is late at times; a difference that is one stays.
            results[number] = result = play(entry)
        if isinstance(result, tuple):
            one, other = result
            times = f"{one.class_of_time():>9} {other.class_of_time():>9}"
            same = ", ".join(differences(one, other)) or "yes"
            print(f"{entry[0]:46} {len(one.reply):>8} {one.end:>5} {one.after:>8} {times}  {same}")
    for entry, result in zip(PROBES, results, strict=True):
        score.check(f"{entry[0]}: nginx and mtg look the same", lambda: judge(result))


def judge(result: tuple[Seen, Seen] | BaseException) -> None:
    """Fail if the two could be told apart."""
    if not isinstance(result, tuple):
        raise Failed(f"{type(result).__name__}: {result}")
    if found := differences(*result):
        raise Failed(f"{', '.join(found)} differ: nginx {_short(result[0])}, mtg {_short(result[1])}")


def _short(seen: Seen) -> str:
    return f"{seen.reply[:120]!r} ({len(seen.reply)}) {seen.end} {seen.after} {seen.at:.2f} s"


def main() -> int:
    """Run the battery in a network namespace of its own."""
    parser = mtg.arguments("The same probes at nginx and at mtg.")
    parser.add_argument("--scale", type=int, default=1, help="factor on nginx's time limits; 20 is its defaults")
    options, work, score = set_up(parser, "probes", "nginx openssl")
    settings = [
        # Less than nginx bears here, so that it is nginx which decides.
        ("network.timeout.handshake", "1s"),
        ("secret", SECRET.hex()),
        ("domain-fronting.host", FRONT[0]),
        ("domain-fronting.port", str(FRONT[1])),
        ("log-level", "debug"),
    ]

    def battery() -> None:
        limits = " ".join(f"{name} {secs * options.scale}s;" for name, secs in NGINX_LIMITS)
        with nginx(work, RSA, limits), mtg.Mtg(options.mtg, work / "mtg", PROXY).run(settings) as proxy:
            watch_secs = WATCH_SECS * options.scale
            bare, through = Target(work, FRONT, False, watch_secs), Target(work, PROXY, True, watch_secs)
            play_all(bare, through, score)
            proxy.stop()

    score.check("nginx and mtg start and end well", battery)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
