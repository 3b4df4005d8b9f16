"""Telegram's WEB proxy with real parts: Chromium as the browser that apps hide, nginx and Caddy in front, TDLib.

Usage: web_proxy.py [--mtg BINARY] [--work FOLDER]. Needs chromium, nginx, caddy, curl and openssl.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mock_dc
import mtg
from front_nginx import EC, HOST, command, make_certificates
from loop_thread import LoopThread
from score import Failed, equal
from set_up import set_up
from tdlib import Tdlib

sys.path.insert(0, str(Path(__file__).parent / "webclient"))
from adapter import PROFILES, Adapter, chromium_arguments  # noqa: E402

KEY = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
SECRET = "ee" + KEY.hex() + HOST.encode().hex()
PATH = "aqvzgkqyq2ks7ymgv6tfzsw2de"
PROXY = ("127.0.0.1", 3443)
WEB = "127.0.0.1:8081"
SITE = ("127.0.0.1", 8443)
APP = ("127.0.0.1", 4000)
START_SECS = 30
ADOPT_SECS = 60
PAGE = "<!doctype html><title>front</title><p>An ordinary page.\n"
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def web_server(name: str, work: Path, with_proxy_header: bool = False, path: str = PATH) -> Iterator[None]:
    """nginx or Caddy with the owner's site and the blocks of `image/`, up for the length of the `with` block."""
    config = work / f"{name}.conf"
    block = (ROOT / f"image/web/{name}.conf").read_text("utf-8")
    if not path:
        block = at_the_root(name, block)
    block = block.replace("proxy.example.com", HOST).replace("PATH", PATH).replace("/srv/www", str(work / "html"))
    block = block.replace("/etc/ssl/site.pem", f"{work}/{HOST}.pem").replace("/etc/ssl/site.key", f"{work}/{HOST}.key")
    if name == "nginx":
        listen = f"{SITE[0]}:{SITE[1]} ssl http2" + (" proxy_protocol" if with_proxy_header else "")
        block = re.sub(r"listen 443 ssl[^;]*;", f"listen {listen};", block)
        if with_proxy_header:
            block = block.replace("#set_real_ip_from", "set_real_ip_from").replace("#real_ip_header", "real_ip_header")
        block = re.sub(r"(?m)^ *listen \[::\].*$", "", block)
        user = "user root;" if os.geteuid() == 0 else ""
        paths = "".join(f"{kind}_temp_path {work}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
        top = f"{user} daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log;"
        log = f"access_log {work}/access.log; client_body_temp_path {work}/body;"
        config.write_text(f"{top}\nevents {{}}\nhttp {{ {log} {paths}\n{block}\n}}\n", "utf-8")
        words: list[str | Path] = ["nginx", "-p", work, "-e", work / "error.log", "-c", config]
    else:
        top = f"{{\nadmin off\nauto_https off\nhttp_port 8980\nhttps_port {SITE[1]}\nservers {{\nprotocols h1 h2\n}}\n}}\n"
        block = block.replace(f"{HOST} {{", f"https://{HOST}:{SITE[1]} {{\nbind {SITE[0]}\ntls {work}/{HOST}.pem {work}/{HOST}.key", 1)
        config.write_text(top + block, "utf-8")
        words = ["caddy", "run", "--adapter", "caddyfile", "--config", config]
    environment = {**os.environ, "HOME": str(work), "XDG_DATA_HOME": str(work), "XDG_CONFIG_HOME": str(work)}
    with open(work / f"{name}.stderr", "wb") as log_file:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, env=environment)
    try:
        _wait_for(process, work / f"{name}.stderr")
        yield
    finally:
        process.terminate()
        try:
            process.wait(START_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(START_SECS)


def at_the_root(name: str, block: str) -> str:
    """The block of `image/` without a path, changed as it says itself."""
    if name == "caddy":
        return block.replace("handle /PATH/* {", "@mtg path / /api/v1/*\n\thandle @mtg {")
    block = re.sub(r"(?ms)^    # Else nginx sends.*?^    \}\n", "", block)
    own = re.search(r"(?ms)^    location \^~ /PATH/ \{.*?^    \}\n", block)[0]
    both = own.replace("^~ /PATH/", "= /") + own.replace("^~ /PATH/", "^~ /api/v1/")
    return block.replace(own, both)


def _wait_for(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECS
    while True:
        try:
            socket.create_connection(SITE, timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the web server does not listen: {log.read_text()[-400:]}") from None
            time.sleep(0.1)


def pin(work: Path) -> str:
    """What makes Chromium take our own CA's certificate."""
    public = command("openssl", "x509", "-in", work / f"{HOST}.pem", "-pubkey", "-noout")
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "der"], input=public.encode(), capture_output=True)
    return base64.b64encode(hashlib.sha256(der.stdout).digest()).decode()


class Apps:
    """Chromium plays an app's hidden browser; TDLib is the app."""

    def __init__(self, work: Path, loop: LoopThread, dcs: mock_dc.MockDataCentres, tdlib: Tdlib) -> None:
        self._work, self._loop, self._dcs, self._tdlib = work, loop, dcs, tdlib
        self._pin = pin(work)

    def pings(self, profile: str, secret: bytes, to: tuple[str, int]) -> None:
        """An app of that kind connects, and TDLib's ping through it comes back."""
        adapter = Adapter(f"{HOST}/{PATH}", secret, profile, APP)
        arguments = chromium_arguments(HOST, f"{to[0]}:{to[1]}", self._pin)
        self._dcs.take_requests()
        try:
            self._loop.run(adapter.start(arguments), ADOPT_SECS)
            deadline = time.monotonic() + ADOPT_SECS
            while not adapter.adopted.is_set():
                if adapter.failed or time.monotonic() > deadline:
                    raise Failed(f"not connected: {adapter.report()}")
                time.sleep(0.05)
            for _ in range(2):
                self._tdlib.ping(*APP, secret.hex())
            self._tdlib.reach(*APP, secret.hex(), 4)
            if adapter.failed:
                raise Failed(adapter.report())
            others = [line for line in adapter.view.requests if f"//{HOST}" not in line and "//127.0.0.1" not in line]
            equal(others, [], "requests to other origins")
        finally:
            self._loop.run(adapter.stop(), ADOPT_SECS)
        if len(self._dcs.take_requests()) < 3:
            raise Failed("not every request came to a DC")


def visit(work: Path, *options: str, path: str) -> str:
    """What curl sees at the site: status, fields and body."""
    ip, port = SITE
    trust = ("--cacert", work / "ca.pem", "--resolve", f"{HOST}:{port}:{ip}", "--noproxy", "*", "--path-as-is")
    answer = command("curl", "--silent", "--include", *trust, *options, f"https://{HOST}:{port}{path}")
    return re.sub(r"(?mi)^date: .*\r?$", "Date", answer)


PROBES = (
    ((), "/{path}/"),
    ((), "/{path}/?bridge=MHLEY5PmW1GWqJkSrlmJpvJUiLhBH_QKy6yKg8a0JPk"),
    (("--head",), "/{path}/"),
    (("--request", "DELETE", "--header", "Authorization: Bearer " + "A" * 43), "/{path}/api/v1/session"),
    (("--http1.1", "--data", "x" * 100, "--header", "Authorization: Bearer " + "A" * 43), "/{path}/api/v1/up"),
    (("--http1.1", "--data-binary", "@{work}/300k", "--header", "Authorization: Bearer " + "A" * 43), "/{path}/api/v1/up"),
    (("--http1.1", "--data", ""), "/{path}/api/v1/down"),
    (
        ("--http1.1", "--header", "Upgrade: websocket", "--header", "Connection: Upgrade",
         "--header", "Sec-WebSocket-Version: 13", "--header", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
         "--header", "Sec-WebSocket-Protocol: tproxy-v1." + "A" * 43),
        "/{path}/api/v1/ws",
    ),
)  # fmt: skip


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW")
BELOW = ("", "/", "/api/v1/session", "/api/v1/up", "/api/v1/down", "/api/v1/ws", "/index.html", "/%61pi", "/../", "//")
SAMPLES = 60
# Beyond these a censor can tell, as for the other door.
MEAN_SECS, DISTANCE = 0.005, 0.35


def every_way(work: Path) -> None:
    """Every method at every path, with and without a body."""
    for method in METHODS:
        for below in BELOW:
            body = ("--data-binary", "@" + str(work / "1k")) if method in ("POST", "PUT", "PATCH") else ()
            how = ("--head",) if method == "HEAD" else ("--request", method)
            hidden = visit(work, "--http1.1", *how, *body, path=f"/{PATH}{below}")
            plain = visit(work, "--http1.1", *how, *body, path=f"/{PATH[::-1]}{below}")
            equal(hidden.replace(PATH, "P"), plain.replace(PATH[::-1], "P"), f"{method} {below}")


def times(work: Path) -> None:
    """How long strangers wait: below the hidden path no longer than elsewhere, as far as anybody can measure."""
    context = ssl.create_default_context(cafile=str(work / "ca.pem"))
    print("     request, mean and standard deviation in ms: below the path, elsewhere; KS distance", flush=True)
    bearer = f"Authorization: Bearer {'A' * 43}\r\nContent-Length: 1000\r\n"
    for line, more, body in (("GET %s", "", b""), (f"GET %s?bridge={'A' * 43}", "", b""), ("POST %sapi/v1/up", bearer, b"x" * 1000)):
        connection = context.wrap_socket(socket.create_connection(SITE, 10), server_hostname=HOST)
        taken: dict[str, list[float]] = {PATH: [], PATH[::-1]: []}
        for number in range(2 * SAMPLES + 10):
            path = (PATH, PATH[::-1])[number % 2]
            head = f"{line.replace('%s', f'/{path}/')} HTTP/1.1\r\nHost: {HOST}\r\n{more}\r\n"
            began = time.monotonic()
            connection.sendall(head.encode() + body)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536) or b"\r\n\r\n"
            seconds = time.monotonic() - began
            length = re.search(rb"(?i)content-length: (\d+)", answer)
            left = int(length[1]) - len(answer.split(b"\r\n\r\n", 1)[1]) if length else 0
            while left > 0:
                left -= len(connection.recv(65536))
            if number >= 10:
                taken[path].append(seconds)
        connection.close()
        hidden, plain = taken.values()
        distance = max(abs(_share(hidden, at) - _share(plain, at)) for at in hidden + plain)
        figures = ", ".join(f"{statistics.mean(one) * 1e3:.2f} ± {statistics.stdev(one) * 1e3:.2f}" for one in (hidden, plain))
        print(f"     {line.split('?')[0]:18} {figures}; {distance:.2f}", flush=True)
        if abs(statistics.mean(hidden) - statistics.mean(plain)) > MEAN_SECS and distance > DISTANCE:
            raise Failed(f"{line}: {figures} ms")


def _share(sample: list[float], at: float) -> float:
    return sum(value <= at for value in sample) / len(sample)


def probes(work: Path) -> None:
    """Below the hidden path a stranger sees what he sees below any other path that does not exist."""
    (work / "300k").write_bytes(b"x" * 300_000)
    for options, path in PROBES:
        options = tuple(option.replace("{work}", str(work)) for option in options)
        hidden = visit(work, *options, path=path.replace("{path}", PATH))
        plain = visit(work, *options, path=path.replace("{path}", PATH[::-1]))
        if not hidden.startswith("HTTP/"):
            raise Failed(f"no answer to {options} {path}: {hidden[:200]}")
        equal(hidden.replace(PATH, "P"), plain.replace(PATH[::-1], "P"), f"{options[:2]} {path}")


def unlogged(work: Path) -> None:
    """Whoever reads nginx's log finds no link in it, neither one of mtg's nor one that mtg does not know."""
    asked = re.findall(r'"GET /(\S+)/\?bridge=', (work / "access.log").read_text("utf-8"))
    if PATH in asked or PATH[::-1] not in asked:
        raise Failed(f"nginx has logged these pages: {sorted(set(asked))}")


# What is asked at the root, and elsewhere: heads whose bodies never come.
UNREAD = (("POST /", "POST /index.html", 5), ("POST /api/v1/up", "POST /nothing/up", 2_000_000), ("POST /api/v1/up", "POST /nothing/up", 5_000_000))
UNREAD_SECS = 8


def unread_bodies(work: Path, server: str) -> None:
    """With mtg at the root of the site it waits for a body where it does elsewhere, and nowhere else: Caddy waits for short ones.

    With what could be a token nginx does wait, as its block says.
    """
    token = f"Authorization: Bearer {'A' * 43}\r\n"
    for here, there, length in UNREAD:
        for field in ("", token) if server == "caddy" else ("",):
            answers = [_head_alone(work, line, length, field) for line in (here, there)]
            equal(*answers, f"{here} and {there}, {length} bytes, {field}")


def _head_alone(work: Path, line: str, length: int, field: str) -> str:
    context = ssl.create_default_context(cafile=str(work / "ca.pem"))
    with context.wrap_socket(socket.create_connection(SITE, UNREAD_SECS), server_hostname=HOST) as connection:
        connection.sendall(f"{line} HTTP/1.1\r\nHost: {HOST}\r\n{field}Content-Length: {length}\r\n\r\n".encode())
        answer = b""
        try:
            while b"\r\n\r\n" not in answer:
                if not (data := connection.recv(65536)):
                    break
                answer += data
        except TimeoutError:
            return "no answer"
    return re.sub(r"(?mi)^date: .*\r?$", "Date", answer.split(b"\r\n\r\n")[0].decode("latin-1"))


def main() -> int:
    """Run all checks in a network namespace of their own."""
    parser = mtg.arguments("The WEB proxy with real parts.")
    parser.add_argument("--profiles", type=int, default=len(PROFILES), help="how many kinds of apps")
    options, work, score = set_up(parser, "web", "caddy chromium curl nginx openssl")
    (work / "html").mkdir(parents=True)
    (work / "html/index.html").write_text(PAGE, "ascii")
    (work / "1k").write_bytes(b"x" * 1000)
    make_certificates(work, EC)
    dcs = mock_dc.MockDataCentres()
    dd = b"\xdd" + KEY

    def settings(carrier: str) -> list[tuple[str, str]]:
        return [
            ("secret", SECRET),
            ("domain-fronting.host", SITE[0]),
            ("domain-fronting.port", str(SITE[1])),
            ("domain-fronting.proxy-protocol", "true"),
            ("log-level", "debug"),
            ("web.bind-to", WEB),
            ("web.path", PATH),
            ("web.carrier", carrier),
            *mock_dc.overrides(),
        ]

    with LoopThread() as loop, Tdlib(work / "database") as tdlib:
        loop.run(dcs.listen())
        apps = Apps(work, loop, dcs, tdlib)
        for carrier in ("https", "websocket"):
            with mtg.Mtg(options.mtg, work / "mtg", PROXY).run(settings(carrier)) as proxy:

                def behind(server: str, profiles: tuple[str, ...]) -> None:
                    with web_server(server, work):
                        for profile in profiles:
                            what = f"{carrier}, {server}, {profile}: TDLib reaches its DCs"
                            score.check(what, lambda: apps.pings(profile, dd, SITE))
                        what = f"{carrier}, {server}: the plain secret as well"
                        score.check(what, lambda: apps.pings("desktop", KEY, SITE))
                        score.check(f"{server}: strangers see the bare site", lambda: probes(work))
                        if server == "nginx":
                            score.check("nginx logs no link", lambda: unlogged(work))
                        score.check(f"{server}: by every method at every path", lambda: every_way(work))
                        score.check(f"{server}: and wait as long", lambda: times(work))

                def one_port() -> None:
                    with web_server("nginx", work, with_proxy_header=True):
                        what = f"{carrier}: all of it through mtg's own port 443"
                        score.check(what, lambda: apps.pings("desktop", dd, PROXY))

                score.check(f"{carrier}: nginx starts and ends", lambda: behind("nginx", PROFILES[: options.profiles]))
                score.check(f"{carrier}: Caddy starts and ends", lambda: behind("caddy", ("desktop", "android")[: options.profiles]))
                score.check(f"{carrier}: nginx behind mtg starts and ends", one_port)
                proxy.stop()
        score.check("no DC saw a broken protocol", lambda: equal(dcs.faults, [], "faults"))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
