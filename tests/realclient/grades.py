"""`mtg doctor --front` on real web servers side by side: the best stands first, and each other one's fault is named.

Usage: grades.py [--mtg BINARY] [--work FOLDER], BINARY being a build with TLS. Needs caddy, dnsmasq, nginx and openssl.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import mtg
from daemon import dnsmasq, running
from front_nginx import SECRET
from own_ca import OwnCa
from score import Failed, equal
from set_up import set_up

DNS = ("127.0.0.1", 5353)
LIMIT_SECS = 25
CADDYFILE = """
{{
    admin off
    auto_https off
}}
{sites}
"""
CADDY_SITE = """
https://{host} {{
    bind {ip}
    tls {certificate} {key}
    respond "hello"
}}
"""
NGINX = """
pid {work}/nginx.pid; daemon off; error_log stderr; {user}
events {{}}
http {{ access_log off; {sites} }}
"""
NGINX_SITE = "server {{ listen {ip}:443 ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; {directives} }}\n"
# What each site is, its grade, and what its line must tell. The best first.
SITES = {
    "boringssl.example": ("ok", ", ML-KEM, one record of ", "a certificate for the name"),
    "go.example": ("warn", "records of ", "a certificate for the name"),
    "nginx.example": ("warn", "records of ", "a certificate for the name"),
    "untrusted.example": ("fail", "no good certificate for the name"),
    "old.example": ("fail", "it answers in an older TLS"),
    "away.example": ("fail", "it cannot be reached"),
    "nameless.example": ("fail", "it has no address"),
}
ADDRESSES = {host: f"127.0.0.{number}" for number, host in enumerate(SITES, 11) if host != "nameless.example"}


class Web:
    """The servers of all sites."""

    def __init__(self, work: Path, stack: ExitStack) -> None:
        self._work = work
        self._stack = stack
        self.ca = OwnCa(work / "ca")
        self._strange_ca = OwnCa(work / "strange-ca")

    def start(self) -> None:
        """Serve all of them until the stack is unwound."""
        self._stack.enter_context(dnsmasq(DNS, [(ip, host) for host, ip in ADDRESSES.items()], self._work))
        self._boringssl("boringssl.example")
        self._caddy("go.example", "untrusted.example")
        self._nginx({"nginx.example": "ssl_protocols TLSv1.2 TLSv1.3;", "old.example": "ssl_protocols TLSv1.2;"})

    def _files(self, host: str) -> tuple[Path, Path]:
        ca = self._strange_ca if host == "untrusted.example" else self.ca
        return ca.certificate(host, host)

    def _run(self, words: list[str | Path], address: tuple[str, int]) -> None:
        self._stack.enter_context(running(words, address, self._work / f"{Path(words[0]).name}.log"))

    def _boringssl(self, host: str) -> None:
        certificate, key = self._files(host)
        program = Path(__file__).with_name("fronts.py")
        address = ADDRESSES[host], 443
        self._run([sys.executable, program, "boringssl", address[0], str(address[1]), certificate, key], address)

    def _caddy(self, *hosts: str) -> None:
        sites = []
        for host in hosts:
            certificate, key = self._files(host)
            sites.append(CADDY_SITE.format(host=host, ip=ADDRESSES[host], certificate=certificate, key=key))
        config = self._work / "Caddyfile"
        config.write_text(CADDYFILE.format(sites="".join(sites)), "ascii")
        os.environ["HOME"] = str(self._work)
        self._run(["caddy", "run", "--config", config, "--adapter", "caddyfile"], (ADDRESSES[hosts[-1]], 443))

    def _nginx(self, sites: dict[str, str]) -> None:
        servers = []
        for host, directives in sites.items():
            certificate, key = self._files(host)
            ip = ADDRESSES[host]
            servers.append(NGINX_SITE.format(ip=ip, certificate=certificate, key=key, directives=directives))
        user = "user root;" if os.geteuid() == 0 else ""
        config = self._work / "nginx.conf"
        config.write_text(NGINX.format(work=self._work, user=user, sites="".join(servers)), "ascii")
        words: list[str | Path] = ["nginx", "-p", self._work, "-e", self._work / "error.log", "-c", config]
        self._run(words, (ADDRESSES[next(iter(sites))], 443))


def grade(binary: Path, config: Path, hosts: list[str]) -> tuple[list[dict[str, str]], int]:
    """What doctor finds, and its exit code."""
    words = [binary, "doctor", "--json", "--front", ",".join(hosts), config]
    done = subprocess.run(words, capture_output=True, timeout=LIMIT_SECS)
    if SECRET.hex()[2:34] in (done.stdout + done.stderr).decode():
        raise Failed("doctor shows the secret")
    return json.loads(done.stdout)["findings"], done.returncode


def quick(findings: list[dict[str, str]]) -> None:
    """All of them are on this machine; whoever waits for the end of a flight waits for a second."""
    times = [int(told[1]) for finding in findings if (told := re.search(r"answers in (\d+) ms", finding["text"]))]
    if len(times) != 4 or min(times) >= 500:
        raise Failed(f"milliseconds: {times}")


def main() -> int:
    """Grade all sites in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("Sites graded as fronts."), "grades", "caddy dnsmasq nginx openssl")
    binary = options.mtg
    config = work / "mtg.conf"
    settings = {"secret": SECRET.hex(), "bind-to": "127.0.0.1:3443", "public-ipv4": "127.0.0.1"}
    settings["network.dns"] = f"udp://{DNS[0]}:{DNS[1]}"
    config.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()), "ascii")

    def checks() -> None:
        with ExitStack() as stack:
            web = Web(work, stack)
            os.environ["SSL_CERT_FILE"] = str(web.ca.file)
            web.start()
            # In whatever order they are named.
            findings, code = grade(binary, config, sorted(SITES))
            for finding in findings:
                print(f"     {finding['grade']:4} {finding['subject']}: {finding['text']} -> {finding['advice']}")
            found = {finding["subject"]: finding for finding in findings}

            def told(host: str) -> None:
                wanted, *parts = SITES[host]
                equal(found[host]["grade"], wanted, "grade")
                for part in parts:
                    if part not in found[host]["text"]:
                        raise Failed(f"{part!r} is not in {found[host]['text']!r}")
                if wanted != "ok" and not found[host]["advice"]:
                    raise Failed("no word of what to do")

            for host in SITES:
                score.check(f"{host} is graded as what it is", lambda host=host: told(host))
            usable = [finding["subject"] for finding in findings if finding["text"].startswith("TLS 1.3")]
            wanted = ["boringssl.example", "go.example", "nginx.example", "untrusted.example"]
            order = [finding["subject"] for finding in findings][: len(wanted)]
            equal(sorted(usable), sorted(wanted), "sites with TLS 1.3")
            # Of those two the quicker one.
            order[1:3] = sorted(order[1:3])
            score.check("the best stands first, what cannot be taken last", lambda: equal(order, wanted, "order"))
            score.check("an answer's time is that of its first byte", lambda: quick(findings))
            score.check("a site that cannot be taken is a failure", lambda: equal(code, 1, "exit code"))
            good = ["boringssl.example", "go.example"]
            score.check("good ones are none", lambda: equal(grade(binary, config, good)[1], 0, "exit code"))

    score.check("all servers start and end well", checks)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
