"""A real nginx as the front: whoever looks at mtg's port must see nginx, and TDLib must still get through.

Usage: front_nginx.py [--mtg BINARY] [--work FOLDER]. Needs nginx, curl and openssl.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import faketls
import mock_dc
import mtg
from loop_thread import LoopThread
from score import Failed, Score, equal
from set_up import set_up
from tdlib import Tdlib

T = TypeVar("T", str, bytes)
HOST = "front.example"
PROXY = ("127.0.0.1", 3443)
FRONT = ("127.0.0.1", 8443)
SECRET = faketls.Secret(bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0"), HOST)
COMMAND_SECS = 30
BIG_BYTES = 5_000_000
PAGE = "<!doctype html><title>front</title><p>An ordinary page.\n"
# A stranger's host has a certificate of its own, so that a wrong SNI is visible from outside.
NGINX_CONF = """
{user}
daemon off;
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    ssl_protocols TLSv1.2 TLSv1.3;
    {directives}
    server {{
        listen {address} ssl http2 default_server;
        server_name stranger.example;
        ssl_certificate {work}/stranger.example.pem;
        ssl_certificate_key {work}/stranger.example.key;
        return 404;
    }}
    server {{
        listen {address} ssl http2;
        server_name front.example;
        ssl_certificate {work}/front.example.pem;
        ssl_certificate_key {work}/front.example.key;
        root {work}/html;
    }}
}}
"""


def command(*words: str | Path) -> str:
    """Run a program to its end; return its stdout and stderr, or fail with them."""
    result = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_SECS
    )
    text = result.stdout.decode("utf-8", "replace")
    if result.returncode != 0:
        raise Failed(f"{words[0]} ended with {result.returncode}: {text[-300:].strip()}")
    return text


EC = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
# Its signatures are all of one length.
RSA = ("rsa:2048",)


def make_certificates(work: Path, key: tuple[str, ...] = EC) -> None:
    """A CA, `ca.pem`, and a certificate with its key for each host."""
    key_kind = ("-newkey", *key, "-nodes", "-days", "2")
    ca = ("-CA", work / "ca.pem", "-CAkey", work / "ca.key")
    command("openssl", "req", "-x509", *key_kind, "-subj", "/CN=test CA", "-keyout", ca[3], "-out", ca[1])
    for host in (HOST, "stranger.example"):
        extensions = ("-addext", f"subjectAltName=DNS:{host}", "-addext", "basicConstraints=critical,CA:FALSE")
        files = ("-keyout", work / f"{host}.key", "-out", work / f"{host}.pem")
        command("openssl", "req", "-x509", *ca, *key_kind, "-subj", f"/CN={host}", *extensions, *files)


def lengthen_chain(work: Path, count: int) -> None:
    """Put so many certificates of 4096 bits behind the host's, as for a chain that is long."""
    if count:
        files = ("-keyout", work / "chain.key", "-out", work / "chain.pem")
        command("openssl", "req", "-x509", "-newkey", "rsa:4096", "-nodes", "-subj", "/CN=one of a chain", *files)
        with open(work / f"{HOST}.pem", "a") as certificates:
            certificates.write((work / "chain.pem").read_text("ascii") * count)


@contextmanager
def nginx(
    work: Path, key: tuple[str, ...] = EC, directives: str = "", chain: int = 0, page: str = PAGE
) -> Iterator[None]:
    """nginx with a page and a big file, up for the length of the `with` block; with more certificates if wanted."""
    html = work / "html"
    html.mkdir(parents=True)
    (html / "index.html").write_text(page, "ascii")
    (html / "big.bin").write_bytes(os.urandom(BIG_BYTES))
    make_certificates(work, key)
    lengthen_chain(work, chain)
    # As root, nginx would hand the files to a user who cannot read this folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config = work / "nginx.conf"
    address = f"{FRONT[0]}:{FRONT[1]}"
    config.write_text(NGINX_CONF.format(user=user, work=work, address=address, directives=directives), "ascii")
    # The prefix keeps nginx from opening a log under /var before it has read the config.
    process = subprocess.Popen(["nginx", "-p", work, "-e", work / "error.log", "-c", config])
    try:
        _wait_for_nginx(process, work)
        yield
    finally:
        process.terminate()
        try:
            process.wait(COMMAND_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(COMMAND_SECS)


def _wait_for_nginx(process: subprocess.Popen[bytes], work: Path) -> None:
    deadline = time.monotonic() + COMMAND_SECS
    while True:
        try:
            socket.create_connection(FRONT, timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"nginx does not listen: {(work / 'error.log').read_text()[-300:]}") from None
            time.sleep(0.05)


class Visitor:
    """Looks at one port with the usual tools; used for nginx itself and for mtg in front of it."""

    def __init__(self, work: Path, address: tuple[str, int]) -> None:
        self._work = work
        self._address = address

    def curl(self, *options: str | Path, paths: tuple[str, ...] = ("/",)) -> str:
        """Fetch pages over one curl run, with the certificate verified against the test CA."""
        ip, port = self._address
        trust = ("--cacert", self._work / "ca.pem", "--resolve", f"{HOST}:{port}:{ip}", "--noproxy", "*")
        urls = [f"https://{HOST}:{port}{path}" for path in paths]
        return command("curl", "--silent", "--show-error", *trust, *options, *urls)

    def handshake(self, *options: str) -> str:
        """What `openssl s_client -brief` says of the handshake."""
        ip, port = self._address
        trust = ("-CAfile", self._work / "ca.pem")
        return command("openssl", "s_client", "-brief", "-connect", f"{ip}:{port}", *trust, *options)

    def send_plain(self, request: bytes) -> bytes:
        """The answer to bytes that are no TLS at all, without the time of day."""
        answer = b""
        with socket.create_connection(self._address, timeout=COMMAND_SECS) as client:
            client.sendall(request)
            while received := client.recv(65536):
                answer += received
        return re.sub(rb"(?m)^Date: .*\r$", b"Date:\r", answer)


class Looks:
    """The checks: nginx directly against nginx through mtg."""

    def __init__(self, work: Path, score: Score) -> None:
        self._work = work
        self._score = score
        self._direct = Visitor(work, FRONT)
        self._through = Visitor(work, PROXY)

    def all(self) -> None:
        """Run every check."""
        status = "\n%{http_code} %{http_version} %{ssl_verify_result}"
        for option, version in (("--http1.1", "1.1"), ("--http2", "2")):
            wanted = f"{PAGE}\n200 {version} 0"
            self._score.check(
                f"curl gets the page over HTTP/{version}, certificate verified",
                lambda: equal(self._through.curl(option, "--write-out", status), wanted, "page"),
            )
        self._score.check("curl limited to TLS 1.2 gets the page", self._tls_1_2)
        self._score.check(f"a file of {BIG_BYTES} bytes arrives whole", self._big_file)
        self._score.check("two requests share one connection", self._keep_alive)
        listing = ("--write-out", "\n%{http_code} %{content_type} %{size_download}\n")
        for path in ("/", "/index.html", "/no-such-page"):
            self._same(f"status and body of {path}", lambda who: who.curl(*listing, paths=(path,)))
        self._same("the answer to a POST", lambda who: who.curl(*listing, "--data", "a=b"))
        request = b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n"
        self._same("the 400 page for plain HTTP", lambda who: who.send_plain(request), b"400 Bad Request")
        self._same("the answer to bytes that are no HTTP", lambda who: who.send_plain(b"\0\1\2\3\r\n\r\n"))
        names = (("a wrong SNI", ("-servername", "wrong.example")), ("no SNI", ("-noservername",)))
        for name, options in names:
            self._same(f"the handshake with {name}", lambda who: who.handshake(*options), "stranger.example")
        right = ("-servername", HOST, "-verify_return_error")
        self._same("the handshake with the right SNI", lambda who: who.handshake(*right), "Verification: OK")
        old = (*right, "-tls1_2")
        self._same("the handshake limited to TLS 1.2", lambda who: who.handshake(*old), "Protocol version: TLSv1.2")

    def _same(self, what: str, look: Callable[[Visitor], T], marker: T | None = None) -> None:
        """Check that both ports show the same; the marker proves that there was something to see."""

        def attempt() -> None:
            wanted = look(self._direct)
            if not wanted or (marker is not None and marker not in wanted):
                raise Failed(f"nginx itself gave {wanted!r}")
            equal(look(self._through), wanted, "through mtg")

        self._score.check(f"{what}: the same as from nginx", attempt)

    def _tls_1_2(self) -> None:
        equal(self._through.curl("--tlsv1.2", "--tls-max", "1.2"), PAGE, "page")

    def _big_file(self) -> None:
        copy = self._work / "copy.bin"
        self._through.curl("--output", copy, paths=("/big.bin",))
        equal(_hash(copy), _hash(self._work / "html/big.bin"), "SHA-256")

    def _keep_alive(self) -> None:
        answer = self._through.curl("--http1.1", "--write-out", "%{num_connects}\n", paths=("/", "/index.html"))
        equal(answer, f"{PAGE}1\n{PAGE}0\n", "pages, each with its new connections")


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def check_tdlib(work: Path, dcs: mock_dc.MockDataCentres) -> None:
    """TDLib accepts the ServerHello that mtg has modelled on this nginx."""
    with Tdlib(work / "database") as tdlib:
        tdlib.ping(*PROXY, SECRET.hex())
    if not dcs.take_requests():
        raise Failed("no DC was reached")


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("nginx as mtg's front."), "nginx", "curl nginx openssl")
    settings = [
        ("secret", SECRET.hex()),
        ("domain-fronting.host", FRONT[0]),
        ("domain-fronting.port", str(FRONT[1])),
        ("log-level", "debug"),
        *mock_dc.overrides(),
    ]
    dcs = mock_dc.MockDataCentres()

    def looks() -> None:
        with nginx(work), LoopThread() as loop, mtg.Mtg(options.mtg, work / "mtg", PROXY).run(settings) as proxy:
            loop.run(dcs.listen())
            Looks(work, score).all()
            score.check("TDLib's ping comes back with nginx as the front", lambda: check_tdlib(work, dcs))
            proxy.stop()

    score.check("nginx and mtg start and end well", looks)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
