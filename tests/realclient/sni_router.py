"""The examples of image/sni-router with real HAProxy and nginx: one port for mtg, its site and others.

Usage: sni_router.py [--mtg BINARY] [--work FOLDER]. Needs haproxy, nginx with its stream module, and openssl.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import socket
import ssl
import sys
from contextlib import ExitStack
from pathlib import Path

import faketls
import mock_dc
import mtg
from daemon import running
from front_nginx import make_certificates
from loop_thread import LoopThread
from score import Failed, equal
from set_up import set_up
from tdlib import Tdlib

EXAMPLES = mtg.ROOT / "image/sni-router"
ROUTER, PROXY, SITE = ("127.0.0.1", 4443), ("127.0.0.1", 3128), ("127.0.0.1", 8443)
SECRET = faketls.Secret(bytes.fromhex("00112233445566778899aabbccddeeff"), "front.example")
VISITOR = "127.0.1.5"
ANSWER_SECS = 20
MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"


def example(name: str, work: Path) -> Path:
    """A file of the example, with what a test cannot have as it is: port 443, and the folders of a system."""
    text = (EXAMPLES / name).read_text("utf-8")
    for old, new in (
        ("bind :443", f"bind {ROUTER[0]}:{ROUTER[1]}"),
        ("listen 443;", f"listen {ROUTER[0]}:{ROUTER[1]};"),
        ("include /etc/nginx/modules-enabled/*.conf;", f"load_module {MODULE};"),
        ("/etc/ssl/", f"{work}/"),
        ("worker_processes auto;", f"worker_processes 1; daemon off; pid {work}/{name}.pid; error_log {work}/{name}.log;"),
        ("worker_connections 20000;", "worker_connections 256;"),
    ):
        text = text.replace(old, new)
    if name == "site.nginx.conf":
        folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = " ".join(f"{folder}_temp_path {work}/{folder};" for folder in folders)
        text = text.replace("access_log off;", f"access_log off; {paths}")
    file = work / name
    file.write_text(text, "utf-8")
    return file


def settings() -> list[tuple[str, str]]:
    """mtg.conf of the example, with a secret and the test's data centres."""
    lines = (EXAMPLES / "mtg.conf").read_text("utf-8").splitlines()
    pairs = [line.split(" = ") for line in lines if line and not line.startswith("#")]
    given = {key: value for key, value in pairs}
    equal(given.pop("bind-to"), f"{PROXY[0]}:{PROXY[1]}", "bind-to")
    equal(given.pop("secret"), "PUT-THE-SECRET-HERE", "secret")
    return [("secret", SECRET.hex()), *given.items(), *mock_dc.overrides()]


def visit(name: str, work: Path) -> str:
    """What a browser sees of a site through the router."""
    context = ssl.create_default_context(cafile=work / "ca.pem")
    with socket.create_connection(ROUTER, timeout=ANSWER_SECS, source_address=(VISITOR, 0)) as plain:
        with context.wrap_socket(plain, server_hostname=name) as browser:
            browser.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while received := browser.recv(65536):
                answer += received
    return answer.rpartition(b"\r\n\r\n")[2].decode().strip()


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("Routers by name in front of mtg."), "sni-router", "haproxy nginx openssl")
    make_certificates(work)
    dcs = mock_dc.MockDataCentres()

    def through(tdlib: Tdlib, router: list[str | Path], log: Path, proxy: mtg.Mtg) -> None:
        with running(router, ROUTER, log):
            dcs.take_requests()
            tdlib.ping(*ROUTER, SECRET.hex())
            if not dcs.take_requests():
                raise Failed("no DC was reached")
            equal(visit("front.example", work), f"front.example for {VISITOR}", "mtg's own site")
            equal(visit("stranger.example", work), f"stranger.example for {VISITOR}", "another site")
            if f" ip={VISITOR} " not in proxy.log():
                raise Failed("mtg does not know the visitor's address")

    def everything() -> None:
        with LoopThread() as loop, ExitStack() as stack:
            loop.run(dcs.listen())
            site = ["nginx", "-c", example("site.nginx.conf", work), "-e", work / "site.log"]
            stack.enter_context(running(site, SITE, work / "site.out"))
            proxy = stack.enter_context(mtg.Mtg(options.mtg, work / "mtg", PROXY).run([*settings(), ("log-level", "debug")]))
            tdlib = stack.enter_context(Tdlib(work / "database"))
            for name, router in (
                ("HAProxy", ["haproxy", "-db", "-f", example("haproxy.cfg", work)]),
                ("nginx", ["nginx", "-c", example("nginx.conf", work), "-e", work / "router.log"]),
            ):
                claim = f"{name} sends clients to mtg, and visitors to the site that they ask for"
                score.check(claim, lambda router=router, name=name: through(tdlib, router, work / f"{name}.out", proxy))
            proxy.stop()

    score.check("the router, mtg and the site start and end well", everything)
    score.check("no DC saw a broken protocol", lambda: equal(dcs.faults, [], "faults"))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
