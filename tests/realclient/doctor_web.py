"""`mtg doctor` follows the WEB proxy's chain, and names the link that is broken: a set-up for each.

Usage: doctor_web.py [--mtg BINARY] [--work FOLDER]. Needs nginx, dnsmasq and openssl.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import mock_dc
import mtg
from daemon import dnsmasq, running
from front_nginx import EC, HOST, make_certificates
from loop_thread import LoopThread
from own_ca import OwnCa
from score import Failed, Score, equal
from set_up import set_up
from web_proxy import KEY, PAGE, PATH, PROXY, ROOT, SECRET, WEB, at_the_root

SITE = ("127.0.0.1", 443)
DNS = ("127.0.0.1", 5353)
DOCTOR_SECS = 25
OTHER_SECRET = "ee" + bytes(range(16)).hex() + HOST.encode().hex()


class Chain:
    """The set-ups."""

    def __init__(self, binary: Path, work: Path, score: Score) -> None:
        self._binary, self._work, self._score = binary, work, score

    def all(self) -> None:
        """Run every check."""
        for carrier in ("https", "websocket"):
            with self._mtg(carrier):
                with self._nginx():
                    self._check(f"{carrier}: nothing is wrong", carrier, {"WEB session": ("ok", "the link works")})
        with self._mtg("https"):
            self._check("nobody listens on port 443", "https", {"WEB port": ("fail", "nobody listens on port 443")})
            with self._nginx():
                unknown = {"web.host": "nowhere.example"}
                self._check("the name has no address", "https", {"WEB name": ("fail", "has no address")}, unknown)
                dead = {"dc-override.2": "127.0.0.99:9000"}
                # Doctor asks the mtg that runs, which still reaches it.
                self._check("the file is newer, in what the chain does not need", "https", {"WEB session": ("ok", "")}, dead)
            with self._nginx(f"{self._work}/stranger.example"):
                self._check("the certificate is for another name", "https", {"WEB certificate": ("fail", "is for another name")})
            self._expired()
            with self._nginx(change=lambda text: text.replace("ssl_protocols TLSv1.2 TLSv1.3", "ssl_protocols TLSv1.2")):
                self._check("the web server speaks an older TLS", "https", {"WEB certificate": ("fail", "older TLS")})
            with self._nginx():
                wrong = {"WEB certificate": ("fail", "apps take only certificates that browsers take")}
                self._check("nobody knows who signed the certificate", "https", wrong, ca=self._work / "stranger.example.pem")
            with self._nginx(change=lambda text: text.replace(f"/{PATH}/", "/elsewhere/")):
                self._check("the web server does not ask mtg", "https", {"WEB page": ("fail", "does not ask it below")})
            with self._nginx(change=lambda text: text.replace("proxy_pass", f"return 301 https://{HOST}/; proxy_pass")):
                self._check("the web server redirects", "https", {"WEB page": ("fail", "sends visitors of the link elsewhere")})
            with self._nginx(change=lambda text: text.replace("proxy_intercept_errors on", "proxy_intercept_errors off")):
                seen = {"WEB strangers": ("fail", "gets another answer"), "WEB session": ("ok", "")}
                self._check("strangers see mtg's own answer", "https", seen)
            with self._nginx(change=lambda text: text.replace("proxy_buffering", "limit_except GET { deny all; } proxy_buffering")):
                self._check("the web server passes no uploads", "https", {"WEB session": ("fail", "no uploads")})
            with self._nginx():
                other = {"secret": OTHER_SECRET}
                self._check("mtg runs with another secret", "https", {"WEB page": ("fail", "another secret")}, other)
        self._root()
        with self._mtg("websocket"), self._nginx(change=lambda text: re.sub(r"proxy_set_header (Upgrade|Connection) .*", "", text)):
            found = {"WEB session": ("fail", "passes no WebSocket on")}
            self._check("the web server passes no WebSocket", "websocket", found)
        with self._nginx():
            self._check("mtg does not run", "https", {"WEB page": ("fail", "does not listen where web.bind-to says")})
        with self._mtg("https", {"dc-override.2": "127.0.0.99:9000"}), self._nginx():
            self._check("mtg reaches no DC", "https", {"WEB session": ("fail", "does not reach Telegram")})

    def _root(self) -> None:
        """The page at the root of the site."""
        root = {"web.path": ""}
        with self._mtg("https", root):
            with self._nginx(path=""):
                found = {"WEB strangers": ("ok", ""), "WEB session": ("ok", "the link works")}
                self._check("without a path nothing is wrong", "https", found, root)
            seen = {"WEB strangers": ("fail", "gets mtg's own answer at /"), "WEB session": ("ok", "")}
            with self._nginx(change=lambda text: text.replace("proxy_intercept_errors on", "proxy_intercept_errors off"), path=""):
                self._check("without a path strangers see mtg's own answer", "https", seen, root)
            seen["WEB strangers"] = ("fail", "comes to / with a wrong link gets another answer (status 403)")
            with self._nginx(change=_refusing_at_the_root, path=""):
                self._check("without a path strangers are refused at the root alone", "https", seen, root)
            seen["WEB strangers"] = ("fail", "gets another answer below /api/v1/")
            with self._nginx(change=_off_below, path=""):
                self._check("without a path strangers see it below", "https", seen, root)

    def _expired(self) -> None:
        """A certificate whose renewal was forgotten, of an authority that is trusted."""
        ca = OwnCa(self._work / "own")
        pem, _ = ca.certificate("expired", HOST, starts_in=timedelta(days=-30))
        with self._nginx(str(pem.with_suffix(""))):
            told = {"WEB certificate": ("fail", "the certificate is out of date: renew it")}
            self._check("the certificate has expired", "https", told, ca=ca.file)
        pem, _ = ca.certificate("valid", HOST)
        with self._nginx(str(pem.with_suffix(""))):
            found = {"WEB certificate": ("ok", ""), "WEB session": ("ok", "the link works")}
            self._check("it has been renewed", "https", found, ca=ca.file)

    def _settings(self, carrier: str, more: dict[str, str] | None = None) -> list[tuple[str, str]]:
        settings = {
            "secret": SECRET, "domain-fronting.host": SITE[0], "domain-fronting.port": str(SITE[1]), "web.bind-to": WEB,
            "web.path": PATH, "web.carrier": carrier, "network.dns": f"udp://{DNS[0]}:{DNS[1]}", "public-ipv4": PROXY[0],
            **dict(mock_dc.overrides()),
        }  # fmt: skip
        return [(key, value) for key, value in {**settings, **(more or {})}.items() if value]

    def _mtg(self, carrier: str, more: dict[str, str] | None = None) -> mtg.Mtg:
        return mtg.Mtg(self._binary, self._work / "mtg", PROXY).run(self._settings(carrier, more))

    @contextmanager
    def _nginx(self, certificate: str | None = None, change: Callable[[str], str] = str, path: str = PATH) -> Iterator[None]:
        work = self._work
        block = (ROOT / "image/web/nginx.conf").read_text("utf-8")
        if not path:
            block = at_the_root("nginx", block)
        block = block.replace("proxy.example.com", HOST).replace("PATH", PATH).replace("/srv/www", f"{work}/html")
        block = block.replace("/etc/ssl/site", certificate or f"{work}/{HOST}")
        block = re.sub(r"(?m)^ *listen \[::\].*$", "", block).replace("listen 443", f"listen {SITE[0]}:{SITE[1]}", 1)
        user = "user root;" if os.geteuid() == 0 else ""
        paths = "".join(f"{kind}_temp_path {work}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi", "client_body"))
        top = f"{user} daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log;\n"
        config = work / "nginx.conf"
        config.write_text(f"{top}events {{}}\nhttp {{ access_log off; {paths}\n{change(block)}\n}}\n", "utf-8")
        command = ["nginx", "-p", work, "-e", work / "error.log", "-c", config]
        with running(command, SITE, work / "nginx.log"):
            yield

    def _check(
        self,
        claim: str,
        carrier: str,
        wanted: dict[str, tuple[str, str]],
        more: dict[str, str] | None = None,
        ca: Path | None = None,
    ) -> None:
        self._score.check(claim, lambda: self._examine(carrier, wanted, more, ca or self._work / "ca.pem"))

    def _examine(self, carrier: str, wanted: dict[str, tuple[str, str]], more: dict[str, str] | None, ca: Path) -> None:
        config = self._work / "doctor.conf"
        settings = [("bind-to", f"{PROXY[0]}:{PROXY[1]}"), *self._settings(carrier, more)]
        config.write_text("".join(f"{key} = {value}\n" for key, value in settings), "utf-8")
        config.chmod(0o600)
        done = subprocess.run(
            [self._binary, "doctor", "--json", config], capture_output=True, timeout=DOCTOR_SECS,
            env={**os.environ, "SSL_CERT_FILE": str(ca)},
        )  # fmt: skip
        text = (done.stdout + done.stderr).decode()
        if KEY.hex() in text or "bridge=" in text:
            raise Failed("doctor shows a secret")
        findings = [one for one in json.loads(done.stdout)["findings"] if one["subject"].startswith("WEB")]
        found = {one["subject"]: (one["grade"], f"{one['text']}: {one['advice']}") for one in findings}
        for subject, (grade, part) in wanted.items():
            if subject not in found or found[subject][0] != grade or part not in found[subject][1]:
                raise Failed(f"wanted {subject} {grade} '{part}', found {found}")
        others = {subject for subject, (grade, _) in found.items() if grade != "ok"} - set(wanted)
        equal(others, set(), f"further faults of {found}")
        equal([one for one in findings if one["grade"] != "ok" and not one["advice"]], [], "faults without advice")


def _off_below(text: str) -> str:
    page, below = text.split("location ^~ /api/v1/ {", 1)
    return f"{page}location ^~ /api/v1/ {{{below.replace('proxy_intercept_errors on', 'proxy_intercept_errors off')}"


def _refusing_at_the_root(text: str) -> str:
    """The root itself refuses whoever has another link, in the site's words."""
    page, below = text.split("location ^~ /api/v1/ {", 1)
    # What mtg answers is refused, and what nginx answers itself is not.
    refused = r"error_page 404 = @refused; error_page 418\1 = @site;"
    page, count = re.subn("error_page 404([ 0-9]*) = @site;", refused, page.replace("return 404;", "return 418;"))
    if not count:
        raise Failed("nginx.conf sends nothing to the site")
    return f"{page}location @refused {{ return 403 0123456789; }}\nlocation ^~ /api/v1/ {{{below}"


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("Doctor and the WEB proxy."), "doctor-web", "dnsmasq nginx openssl")
    (work / "html").mkdir(parents=True)
    (work / "html/index.html").write_text(PAGE, "ascii")
    make_certificates(work, EC)
    dcs = mock_dc.MockDataCentres()
    with LoopThread() as loop, dnsmasq(DNS, [("127.0.0.1", HOST)], work):
        loop.run(dcs.listen())
        Chain(options.mtg, work, score).all()
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
