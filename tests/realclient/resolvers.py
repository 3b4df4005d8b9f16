"""Name servers, web servers and STUN servers around mtg: dnsmasq and unbound from Debian, and our own for the rest.

Usage: resolvers.py [--mtg BINARY] [--mtg-tls BINARY] [--work FOLDER]. Needs dnsmasq, unbound and ip; BINARY is a build
without TLS, the other one a build with it. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import faketls
import mtg
from daemon import Daemon, dnsmasq, running
from fixed_front import ANSWER, FixedFront
from loop_thread import LoopThread
from own_ca import OwnCa
from pace import Pace
from score import Failed, Score, equal
from set_up import set_up
from soak_dc import ORDER, SoakDc
from web import Web

HOST = "front.example"
SECRET = faketls.Secret(bytes.fromhex("00112233445566778899aabbccddeeff"), HOST)
PROXY = ("127.0.0.1", 3128)
# Fewer bytes would wait for company: no TLS 1.3 record is that short.
PING = b"ping" * 16
FRONT_PORT = 8443
DC = ("127.0.0.12", 9000)
# An address of the internet that only this namespace has: others are not believed.
CDN = ("91.105.192.111", 9443)
DNSMASQ = ("127.0.0.1", 5353)
UNBOUND = ("127.0.0.1", 8853)
WEB = ("127.0.0.1", 443)
SILENT = ("127.0.0.1", 5354)
STUN = ("127.0.0.1", 3478)
SYSTEM_DNS = ("127.0.0.5", 53)
SYSTEM_SILENT = ("127.0.0.6", 53)
# What is checked, the front's name, and the files; nobody listens on 127.0.0.7.
SERVERS = "nameserver 127.0.0.7\nnameserver 127.0.0.6\nnameserver 127.0.0.5\n"
SYSTEMS: list[tuple[str, str, dict[str, str]]] = [
    ("a dead and a silent server before the one that answers", HOST, {"resolv.conf": SERVERS}),
    ("a search domain", "front", {"resolv.conf": "search nowhere.example example\nnameserver 127.0.0.5\n"}),
    (
        "a domain without an answer, and a timeout",
        "front",
        {"resolv.conf": "search silent.example example\nnameserver 127.0.0.5\noptions timeout:2\n"},
    ),
    ("a truncated answer", "big.example", {"resolv.conf": "nameserver 127.0.0.5\n"}),
    ("hosts", "only.in.hosts", {"resolv.conf": SERVERS, "hosts": "127.0.0.1 Only.In.Hosts\n"}),
]
HTTP_2_SETTINGS = bytes.fromhex("000000040000000000")
CARRIER_NAT = "100.64.7.7"
PUBLIC_IP = "8.8.4.4"
LISTED = "127.0.9.5"
START_SECS = 15
PATIENCE_SECS = 30
# What the program promises: two attempts to connect of 5 s, after 5 s for the resolver.
DEADLINE_SECS = 17


class Run:
    """The parts that every check needs."""

    def __init__(self, plain: Path, with_tls: Path, work: Path, loop: LoopThread, score: Score) -> None:
        self._plain = plain
        self._with_tls = with_tls
        self._work = work
        self._loop = loop
        self._score = score
        self._ca = OwnCa(work / "ca")

    def all(self) -> None:
        """Run every check."""
        check = self._score.check
        for name, binary in (("without TLS", self._plain), ("with TLS", self._with_tls)):
            check(f"{name}: dnsmasq is asked over UDP", lambda: self._front_is_found(binary, HOST))
            check(f"{name}: an alias is followed", lambda: self._front_is_found(binary, "alias.example"))
            check(f"{name}: a truncated answer is asked for over TCP", lambda: self._front_is_found(binary, "big.example"))
        for name, host, files in SYSTEMS:
            check(f"the system's names: {name}", lambda: self._system_knows(host, files))
        check("a name server that dies mid-run: the last answer serves", self._server_dies)
        check("a name server that falls silent mid-run: the last answer serves", self._server_falls_silent)
        check("without any answer: strangers end in time, clients are served", self._no_answer_at_all)
        check("unbound is asked over TLS", lambda: self._front_over_tls("tls://127.0.0.1:8853"))
        check("unbound with a certificate for another name is refused", self._wrong_name)
        check("unbound with a certificate of a stranger is refused", self._wrong_ca)
        check("a web server is asked over HTTPS", self._front_over_https)
        check("a name server that speaks HTTP/2 alone is told of", self._http_2_alone)
        check("a list comes over HTTPS, once its certificate has become valid", self._list_over_https)
        check("addresses of the CDN are learned, and the last good ones stay", self._cdn_is_learned)
        check("the times between the records of a page are learned", self._page_is_measured)
        check("a build without TLS says what it needs", self._refused_without_tls)
        check("a STUN server tells the public address, carrier-grade NAT is named", self._stun)
        check("a web page tells the public address where no STUN server answers", self._public_page)

    def _mtg(self, binary: Path, settings: list[tuple[str, str]]) -> mtg.Mtg:
        os.environ["SSL_CERT_FILE"] = str(self._ca.file)
        common = [
            ("secret", SECRET.hex()),
            ("domain-fronting.port", str(FRONT_PORT)),
            ("dc-override.2", f"{DC[0]}:{DC[1]}"),
            ("prefer-ip", "only-ipv4"),
            ("log-level", "debug"),
        ]
        return mtg.Mtg(binary, self._work / "run", PROXY).run([*common, *settings])

    def _front_is_found(self, binary: Path, name: str) -> None:
        with self._dnsmasq(), self._mtg(binary, [_dns(DNSMASQ), ("domain-fronting.host", name)]) as proxy:
            equal(_visit(), ANSWER, "the front's answer")
            proxy.stop()

    def _system_knows(self, host: str, files: dict[str, str]) -> None:
        """With other files in /etc, which only this mtg sees."""
        script = ["#!/bin/sh", "set -e"]
        for name in ("resolv.conf", "hosts"):
            file = self._work / f"etc-{name}"
            file.write_text(files.get(name, ""), "ascii")
            script.append(f'mount --bind "{file}" "$(realpath /etc/{name})"')
        script.append(f'exec "{self._plain}" "$@"')
        inside, binary = self._work / "with-files", self._work / "mtg-with-files"
        inside.write_text("\n".join(script) + "\n", "utf-8")
        binary.write_text(f'#!/bin/sh\nexec unshare --mount sh "{inside}" "$@"\n', "utf-8")
        binary.chmod(0o755)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, self._dnsmasq(SYSTEM_DNS):
            silent.bind(SYSTEM_SILENT)
            with self._mtg(binary, [("domain-fronting.host", host)]) as proxy:
                started = time.monotonic()
                equal(_visit(), ANSWER, "the front's answer")
                _at_most(started, 4)
                proxy.stop()

    def _server_dies(self) -> None:
        with self._dnsmasq() as server, self._mtg(self._plain, [_dns(DNSMASQ)]) as proxy:
            equal(_visit(), ANSWER, "before")
            server.stop()
            # The server says 1 s; we take that for 5 s.
            time.sleep(6)
            started = time.monotonic()
            for _ in range(5):
                equal(_visit(), ANSWER, "after")
            _at_most(started, 5)
            proxy.stop()

    def _server_falls_silent(self) -> None:
        with self._dnsmasq() as server, self._mtg(self._plain, [_dns(DNSMASQ)]) as proxy:
            equal(_visit(), ANSWER, "before")
            server.stop()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind(DNSMASQ)
                time.sleep(6)
                started = time.monotonic()
                for _ in range(5):
                    equal(_visit(), ANSWER, "after")
                _at_most(started, 5)
            proxy.stop()

    def _no_answer_at_all(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(SILENT)
            with self._mtg(self._plain, [_dns(SILENT)]) as proxy:
                started = time.monotonic()
                stranger = threading.Thread(target=_visit)
                stranger.start()
                self._ping(2)
                _at_most(started, 5)
                stranger.join(PATIENCE_SECS)
                if stranger.is_alive():
                    raise Failed("the stranger is still there")
                _at_most(started, DEADLINE_SECS)
                proxy.stop()

    def _front_over_tls(self, server: str) -> None:
        with self._unbound("127.0.0.1"), self._mtg(self._with_tls, [("network.dns", server)]) as proxy:
            equal(_visit(), ANSWER, "the front's answer")
            proxy.stop()

    def _wrong_name(self) -> None:
        with self._unbound("127.0.0.2", "other.example"):
            self._is_refused("tls://127.0.0.1:8853", "not valid for name")

    def _wrong_ca(self) -> None:
        trusted, self._ca = self._ca, OwnCa(self._work / "other-ca")
        try:
            with self._unbound("127.0.0.1"):
                self._ca = trusted
                self._is_refused("tls://127.0.0.1:8853", "BadSignature")
        finally:
            self._ca = trusted

    def _is_refused(self, server: str, why: str) -> None:
        with self._mtg(self._with_tls, [("network.dns", server)]) as proxy:
            equal(_visit(), b"", "the answer without a front")
            _wait_for(lambda: why in self._log(), f"{why!r} in the log")
            proxy.stop()

    def _front_over_https(self) -> None:
        certificate = self._ca.certificate("doh", "127.0.0.1")
        with Web(WEB, certificate, {HOST: "127.0.0.1"}) as web:
            with self._mtg(self._with_tls, [("network.dns", "https://127.0.0.1")]) as proxy:
                equal(_visit(), ANSWER, "the front's answer")
                equal(set(web.requests), {"POST /dns-query"}, "requests")
                proxy.stop()

    def _http_2_alone(self) -> None:
        """It answers whatever comes with its first frame, as such servers do, and goes."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._ca.certificate("http2", "127.0.0.1"))

        def serve(listener: socket.socket) -> None:
            while True:
                try:
                    with context.wrap_socket(listener.accept()[0], server_side=True) as visitor:
                        visitor.sendall(HTTP_2_SETTINGS)
                        visitor.recv(4096)
                except ssl.SSLError:
                    pass
                except OSError:
                    return

        with socket.create_server(WEB) as listener:
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
            self._is_refused("https://127.0.0.1", "it may insist on HTTP/2, which mtg does not speak")
            listener.shutdown(socket.SHUT_RDWR)

    def _list_over_https(self) -> None:
        late = self._ca.certificate("late", "127.0.0.1", starts_in=datetime.timedelta(hours=1))
        settings = [
            ("domain-fronting.host", "127.0.0.1"),
            ("defense.blocklist.enabled", "true"),
            ("defense.blocklist.urls", "https://127.0.0.1/list"),
            ("defense.reject", "close"),
            ("defense.blocklist.update-each", "500ms"),
        ]
        with Web(WEB, late, {}) as web:
            web.pages["/list"] = f"{LISTED}\n".encode("ascii")
            with self._mtg(self._with_tls, settings) as proxy:
                _wait_for(lambda: "not valid yet" in self._log(), "a complaint")
                equal(_visit(LISTED), ANSWER, "before the list")
                web.use(self._ca.certificate("good", "127.0.0.1"))
                _wait_for(lambda: "list loaded" in self._log(), "the list")
                equal(_visit(LISTED), b"", "after the list")
                equal(_visit(), ANSWER, "others")
                proxy.stop()

    def _cdn_is_learned(self) -> None:
        certificate = self._ca.certificate("telegram", "core.telegram.org")
        with self._dnsmasq(), Web(WEB, certificate, {}) as web:
            page = f"# a comment\ndefault 2;\nproxy_for 2 1.1.1.1:8888;\nproxy_for 203 {CDN[0]}:{CDN[1]};\n"
            web.pages["/getProxyConfig"] = page.encode("ascii")
            with self._mtg(self._with_tls, [_dns(DNSMASQ), ("auto-update", "true")]) as proxy:
                _wait_for(lambda: "addresses learned dc=203 count=1" in self._log(), "the addresses")
                _wait_for(lambda: "getProxyConfigV6 error=the server answers with status 404" in self._log(), "a complaint")
                self._ping(203)
                proxy.stop()

    def _page_is_measured(self) -> None:
        settings = [
            ("domain-fronting.host", "127.0.0.1"),
            ("defense.doppelganger.enabled", "true"),
            ("defense.doppelganger.urls", "https://127.0.0.1/page"),
            ("defense.doppelganger.urls", "https://127.0.0.1/missing"),
            ("defense.doppelganger.repeats-per-raid", "3"),
        ]
        with Web(WEB, self._ca.certificate("good", "127.0.0.1"), {}) as web:
            web.paced["/page"] = 60, 0.01
            with self._mtg(self._with_tls, settings) as proxy:
                _wait_for(lambda: "pages measured times=" in self._log(), "the times")
                found = re.search(r"pages measured times=(\d+) mbit_per_second=(\d+) in use", self._log())
                times, speed = map(int, found.groups()) if found else (0, 0)
                # 16 KiB each 10 ms; the server's timer is late, never early.
                if not (150 <= times <= 180 and 8 <= speed <= 13):
                    raise Failed(f"{times} times, {speed} Mbit/s")
                if "page=https://127.0.0.1/missing error=the server answers with status 404" not in self._log():
                    raise Failed("no complaint about the missing page")
                self._ping(2)
                proxy.stop()

    def _refused_without_tls(self) -> None:
        for setting in ("network.dns = tls://127.0.0.1", "network.dns = https://127.0.0.1", "auto-update = true"):
            config = self._work / "refused.conf"
            config.write_text(f"secret = {SECRET.hex()}\nbind-to = 127.0.0.1:1\n{setting}\n", "utf-8")
            result = subprocess.run([self._plain, "run", "--check", config], capture_output=True, text=True, timeout=10)
            equal(result.returncode, 78, "exit code")
            if "mtg-tls" not in result.stderr:
                raise Failed(result.stderr)

    def _stun(self) -> None:
        with _carrier_nat(), _stun_server():
            document, notes = self._access([("network.stun-servers", f"{STUN[0]}:{STUN[1]}")])
            equal(document["ipv4"]["ip"], PUBLIC_IP, "the address")
            if "carrier-grade NAT" not in notes:
                raise Failed(notes)

    def _public_page(self) -> None:
        with Web(WEB, self._ca.certificate("page", "127.0.0.1"), {}) as web:
            web.pages["/ip"] = f"{PUBLIC_IP}\n".encode("ascii")
            settings = [("network.stun-servers", "127.0.0.1:9"), ("network.public-ip-urls", "https://127.0.0.1/ip")]
            document, _ = self._access(settings)
            equal(document["ipv4"]["ip"], PUBLIC_IP, "the address")

    def _access(self, settings: list[tuple[str, str]]) -> tuple[dict[str, dict[str, str]], str]:
        config = self._work / "access.conf"
        lines = [("secret", SECRET.hex()), ("bind-to", "0.0.0.0:443"), *settings]
        config.write_text("".join(f"{key} = {value}\n" for key, value in lines), "utf-8")
        os.environ["SSL_CERT_FILE"] = str(self._ca.file)
        result = subprocess.run(
            [self._with_tls, "access", config], capture_output=True, text=True, timeout=PATIENCE_SECS, check=True
        )
        return json.loads(result.stdout), result.stderr

    def _ping(self, dc: int) -> None:
        """A client's bytes go to the DC and come back."""

        async def ping() -> bytes:
            client = await faketls.FakeTlsClient.connect(PROXY, SECRET, dc)
            await client.write(ORDER.pack(b"E", len(PING)) + PING)
            answer = await client.read_exactly(len(PING))
            await client.close()
            return answer

        equal(self._loop.run(ping()), PING, "the DC's answer")

    def _log(self) -> str:
        return (self._work / "run/stderr").read_text("utf-8", "replace")

    def _dnsmasq(self, address: tuple[str, int] = DNSMASQ) -> AbstractContextManager[Daemon]:
        names = [("127.0.0.1", HOST), ("127.0.0.1", "core.telegram.org")]
        # Much more than 512 bytes.
        names += [(f"127.0.1.{number}", "big.example") for number in range(1, 61)]
        options = ("--local-ttl=1", f"--server=/silent.example/{SYSTEM_SILENT[0]}", f"--cname=alias.example,{HOST}")
        return dnsmasq(address, names, self._work, *options)

    @contextmanager
    def _unbound(self, *hosts: str) -> Iterator[None]:
        certificate, key = self._ca.certificate("unbound", *hosts)
        config = self._work / "unbound.conf"
        config.write_text(
            f"""server:
    interface: {UNBOUND[0]}@{UNBOUND[1]}
    tls-port: {UNBOUND[1]}
    tls-service-pem: "{certificate}"
    tls-service-key: "{key}"
    do-daemonize: no
    chroot: ""
    username: ""
    directory: "{self._work}"
    pidfile: "{self._work / "unbound.pid"}"
    use-syslog: no
    module-config: "iterator"
    local-zone: "example." static
    local-data: "{HOST}. 60 IN A 127.0.0.1"
remote-control:
    control-enable: no
""",
            "utf-8",
        )
        with running(["unbound", "-d", "-c", config], UNBOUND, self._work / "unbound.log"):
            yield


def _dns(server: tuple[str, int]) -> tuple[str, str]:
    return "network.dns", f"udp://{server[0]}:{server[1]}"


@contextmanager
def _carrier_nat() -> Iterator[None]:
    """The way out begins at an address of a provider's own network."""
    subprocess.run(["ip", "address", "add", f"{CARRIER_NAT}/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "route", "add", "default", "dev", "lo", "src", CARRIER_NAT], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "del", "default", "dev", "lo"], check=True)
        subprocess.run(["ip", "address", "del", f"{CARRIER_NAT}/32", "dev", "lo"], check=True)


@contextmanager
def _stun_server() -> Iterator[None]:
    """Tells everybody the same address (RFC 8489)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(STUN)
        cookie = 0x2112A442

        def serve() -> None:
            try:
                while True:
                    request, peer = server.recvfrom(1500)
                    (address,) = struct.unpack(">I", socket.inet_aton(PUBLIC_IP))
                    mapped = struct.pack(">HHBBHI", 0x0020, 8, 0, 1, 4242 ^ cookie >> 16, address ^ cookie)
                    server.sendto(struct.pack(">HH", 0x0101, len(mapped)) + request[4:20] + mapped, peer)
            except OSError:
                pass  # Closed.

        threading.Thread(target=serve, daemon=True).start()
        yield


def _visit(source: str = "127.0.0.1") -> bytes:
    """What a stranger gets who speaks plain HTTP."""
    answer = b""
    try:
        with socket.create_connection(PROXY, timeout=PATIENCE_SECS, source_address=(source, 0)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while received := client.recv(4096):
                answer += received
    except (ConnectionResetError, BrokenPipeError):
        pass  # Without a front there is nothing else to be had.
    return answer


def _at_most(started: float, seconds: float) -> None:
    if (took := time.monotonic() - started) > seconds:
        raise Failed(f"it took {took:.1f} s, at most {seconds} s are allowed")


def _wait_for(what: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECS
    while not what():
        if time.monotonic() > deadline:
            raise Failed(f"waited {PATIENCE_SECS} s in vain for {name}")
        time.sleep(0.05)


def main() -> int:
    """Run all checks in a network namespace of their own."""
    parser = mtg.arguments("Name servers, web servers and STUN servers around mtg.")
    parser.add_argument("--mtg-tls", type=Path, default=mtg.ROOT / "target/release/mtg-tls", help="the build with TLS")
    options, work, score = set_up(parser, "resolvers", "dnsmasq ip unbound")
    subprocess.run(["ip", "address", "add", f"{CDN[0]}/32", "dev", "lo"], check=True)
    with LoopThread() as loop:
        dc = SoakDc(Pace(1 << 30))
        for address in (DC, CDN):
            loop.run(dc.listen(*address))
        loop.run(FixedFront().listen("0.0.0.0", FRONT_PORT))
        Run(options.mtg, options.mtg_tls.resolve(), work, loop, score).all()
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
