"""The commands of the README's "On a server" and "WEB proxy in ten minutes", as they stand there, with nginx and with Caddy.

A server that can be thrown away: mounts over /etc, /usr and /var, a network of its own, `systemctl` played by a script. The
archive is what scripts/rootfs packs, with the binary under test. nginx has a certificate of a CA of ours; Caddy gets its own by ACME,
from a Caddy that plays the authority.

Usage: ten_minutes.py [--mtg BINARY WITH TLS] [--work FOLDER], as root. Needs nginx, caddy, curl and systemd-sysusers.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import loopback_only
import mock_dc
import mtg
from loop_thread import LoopThread
from own_ca import OwnCa
from score import Failed, Score, equal
from set_up import need

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/appliance"), str(ROOT / "scripts")]
from router import be_alone  # noqa: E402

# mtg takes no address of those for examples for one that the world reaches; nothing leaves the network of the test.
SITE, ADDRESS = "proxy.example.com", "11.22.33.44"
ACME, ACME_ADDRESS = "acme-v02.api.letsencrypt.org", "11.22.33.1"
ELSEWHERE = ("ip", "netns", "exec", "elsewhere")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
PAGE = "<!doctype html><title>site</title><p>A site of somebody's own.\n"
COMMANDS_SECS = 120
PATIENCE_SECS = 60
# What a service manager does with the services that the commands name.
SYSTEMCTL = r"""#!/bin/sh
set -eu
stop() {
    [ -e /run/$1.pid ] || return 0
    pid=$(cat /run/$1.pid)
    # It may have ended by itself.
    kill "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}
unit=/usr/lib/systemd/system/mtg.service
case "$*" in
daemon-reload) ;;
"enable --now mtg" | "restart mtg")
	stop mtg
	sh -c "$(sed -n 's/^ExecStartPre=+//p' $unit)"
	mkdir -p /var/lib/mtg
	$(sed -n 's/^ExecStart=//p' $unit) >>/run/mtg.log 2>&1 &
	echo $! >/run/mtg.pid
	;;
"reload nginx") nginx -s reload ;;
"restart nginx") stop nginx && nginx ;;
"reload caddy") caddy reload --config /etc/caddy/Caddyfile ;;
*) echo "systemctl $* is not played" >&2 && exit 1 ;;
esac
"""
AUTHORITY = """{
	admin off
	skip_install_trust
	storage file_system STORE
}
https://acme-v02.api.letsencrypt.org {
	tls internal
	rewrite /directory /acme/local/directory
	acme_server
}
"""


def blocks(heading: str) -> list[str]:
    """The commands below a heading of the README."""
    text = (ROOT / "README.md").read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [re.sub("(?m)^ {3}", "", block) if block.startswith("   ") else block for block in re.findall(r"```(?:sh)?\n(.*?)```", text, re.DOTALL)]


def own_mounts(work: Path) -> None:
    """Whatever is written to the machine's folders goes away with this process."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", work], check=True)
    for name in ("etc", "usr", "var"):
        upper, under = work / name, work / f"{name}.work"
        upper.mkdir()
        under.mkdir()
        options = f"lowerdir=/{name},upperdir={upper},workdir={under}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, f"/{name}"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)


def own_network() -> None:
    """An address that the world could reach, and another machine that is all the world."""
    for words in (
        "netns add elsewhere", "link add out type veth peer name far netns elsewhere", f"addr add {ADDRESS}/24 dev out",
        "link set out up", f"route add default via {ACME_ADDRESS} dev out onlink", "-n elsewhere link set lo up",
        f"-n elsewhere addr add {ACME_ADDRESS}/24 dev far", "-n elsewhere link set far up",
    ):  # fmt: skip
        subprocess.run(["ip", *words.split()], check=True)
    with Path("/etc/hosts").open("a", encoding="ascii") as hosts:
        hosts.write(f"{ADDRESS} {SITE}\n{ACME_ADDRESS} {ACME}\n")
    # It may be a link to where nothing is any more.
    Path("/etc/resolv.conf").unlink(missing_ok=True)
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.3\n", "ascii")


def archive(binary: Path, folder: Path) -> None:
    """What scripts/rootfs packs, under the name that the README has."""
    loader = importlib.machinery.SourceFileLoader("rootfs", str(ROOT / "scripts/rootfs"))
    spec = importlib.util.spec_from_loader("rootfs", loader)
    rootfs = importlib.util.module_from_spec(spec)
    loader.exec_module(rootfs)
    rootfs.binary_of = lambda *_: binary.read_bytes()
    overrides = "".join(f"{key} = {value}\n" for key, value in mock_dc.overrides()).encode()
    files = [
        rootfs.File(file.path, file.content + overrides * (file.path == "usr/share/mtg/mtg.conf"), file.mode)
        for file in rootfs.files("x86_64-unknown-linux-musl")
    ]
    (name,) = re.findall(r"tar -xzf (\S+)", blocks("On a server")[0])
    (folder / name).write_bytes(rootfs.gz(rootfs.tar(files, rootfs.source_date_epoch())))


def nginx_is_there(work: Path) -> None:
    """Debian's, as the package leaves it, and a certificate where certbot puts them."""
    live = Path(f"/etc/letsencrypt/live/{SITE}")
    live.mkdir(parents=True)
    ca = OwnCa(work / "ca")
    certificate, key = ca.certificate("site", SITE)
    shutil.copy(certificate, live / "fullchain.pem")
    shutil.copy(key, live / "privkey.pem")
    with AUTHORITIES.open("ab") as authorities:
        authorities.write(ca.file.read_bytes())
    subprocess.run(["nginx"], check=True)


def caddy_is_there(work: Path) -> None:
    """Debian's, as the package leaves it, and an authority."""
    config = work / "authority"
    config.write_text(AUTHORITY.replace("STORE", str(work / "store")), "ascii")
    environment = {**os.environ, "HOME": str(work), "XDG_DATA_HOME": str(work), "XDG_CONFIG_HOME": str(work)}
    with (work / "authority.log").open("wb") as log:
        subprocess.Popen([*ELSEWHERE, "caddy", "run", "--adapter", "caddyfile", "--config", config], env=environment, stdout=log, stderr=log)
    root = work / "store/pki/authorities/local/root.crt"
    patiently("an authority", lambda: root.exists() and answers(ACME, "/directory"))
    with AUTHORITIES.open("ab") as authorities:
        authorities.write(root.read_bytes())
    environment["HOME"] = environment["XDG_DATA_HOME"] = environment["XDG_CONFIG_HOME"] = "/var/lib/caddy"
    with (work / "caddy.log").open("wb") as log:
        subprocess.Popen(["caddy", "run", "--config", "/etc/caddy/Caddyfile"], env=environment, stdout=log, stderr=log)
    patiently("Caddy", lambda: subprocess.run(["curl", "--silent", "http://127.0.0.1:2019/config/"], capture_output=True).returncode == 0)


def patiently(what: str, holds: object) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_SECS
    while not holds():
        if time.monotonic() > deadline:
            raise Failed(f"never: {what}")
        time.sleep(0.2)


def curl(*words: str) -> str:
    """What a visitor sees."""
    done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "20", *words], capture_output=True, encoding="utf-8")
    return done.stdout + done.stderr


def answers(host: str, path: str) -> bool:
    """Whether there is a page, whoever signed for it."""
    return curl("--insecure", "--output", "/dev/null", "--write-out", "%{http_code}", f"https://{host}{path}").startswith("200")


class Server:
    """One web server's commands."""

    def __init__(self, name: str, score: Score, work: Path) -> None:
        self._name, self._score, self._work = name, score, work

    def all(self) -> None:
        """Every check, in the README's order."""
        other = {"nginx": "caddy", "caddy": "nginx"}[self._name]
        site, *steps = [block for block in blocks("WEB proxy in ten minutes") if other not in block]
        check = self._score.check
        check(f"{self._name}: mtg is installed on a server", lambda: self._commands(blocks("On a server")[0]))
        before = [step for step in steps if "mtg doctor" not in step and "domain-fronting" not in step]
        equal(len(before), 2, "commands for mtg and the web server")
        for number, step in enumerate(before, 2):
            check(f"{self._name}: step {number}", lambda step=step: self._commands(site + step))
        check(f"{self._name}: doctor finds every link of the chain good", self._doctor)
        (last,) = [step for step in steps if "mtg doctor" in step]
        check(f"{self._name}: the link is shown", lambda: self._link(last))
        check(f"{self._name}: strangers see the site", self._strangers)
        for step in (step for step in steps if "domain-fronting" in step):
            check(f"{self._name}: one port for both", lambda step=step: self._commands(site + step))
            check(f"{self._name}: doctor, with one port", self._doctor)
            check(f"{self._name}: strangers see the site, through mtg", self._strangers)

    def _commands(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=self._work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", timeout=COMMANDS_SECS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"exit code {done.returncode}: {done.stdout[-800:]}")
        return done.stdout

    def _doctor(self) -> None:
        patiently("the site", lambda: curl(f"https://{SITE}/") == PAGE)
        printed = subprocess.run(["mtg", "doctor", "--json"], capture_output=True, encoding="utf-8", timeout=COMMANDS_SECS).stdout
        links = [finding for finding in json.loads(printed)["findings"] if finding["subject"].startswith("WEB")]
        equal(len(links) >= 4, True, f"links: {links}")
        equal([link for link in links if link["grade"] != "ok"], [], "links that are not good")

    def _link(self, commands: str) -> None:
        # Its exit code also tells of what there is not in this network; _doctor looks at what is said of the chain.
        printed = self._commands(commands.replace("mtg doctor", "mtg doctor || true"))
        path = re.search(r"(?m)^web\.path *= *(\S+)", Path("/etc/mtg.conf").read_text("ascii"))[1]
        for part in ("tg://webproxy?", SITE, path, "█"):
            if part not in printed:
                raise Failed(f"no {part}: {printed[:600]}")

    def _strangers(self) -> None:
        path = re.search(r"(?m)^web\.path *= *(\S+)", Path("/etc/mtg.conf").read_text("ascii"))[1]
        equal(curl(f"https://{SITE}/"), PAGE, "page")
        shown = [curl("--include", f"https://{SITE}/{name}/") for name in (path, path[::-1])]
        plain = [re.sub(r"(?mi)^date:.*\n", "", text).replace(path, "P").replace(path[::-1], "P") for text in shown]
        equal(plain[0], plain[1], "below the path, and elsewhere")
        equal("404" in plain[0].split("\n")[0], True, f"not found: {plain[0][:200]}")


@contextmanager
def data_centres() -> Iterator[None]:
    """Telegram's, played."""
    dcs = mock_dc.MockDataCentres()
    with LoopThread() as loop:
        loop.run(dcs.listen())
        yield


def one(name: str, binary: Path, folder: Path) -> int:
    """Everything with one web server."""
    loopback_only.enter()
    folder.mkdir(parents=True, exist_ok=True)
    own_mounts(folder)
    own_network()
    Path("/usr/bin/systemctl").unlink(missing_ok=True)
    Path("/usr/bin/systemctl").write_text(SYSTEMCTL, "ascii")
    Path("/usr/bin/systemctl").chmod(0o755)
    archive(binary, folder)
    Path("/var/www/html").mkdir(parents=True, exist_ok=True)
    Path("/var/www/html/index.html").write_text(PAGE, "ascii")
    score = Score()
    with data_centres():
        score.check(f"{name} runs", lambda: {"nginx": nginx_is_there, "caddy": caddy_is_there}[name](folder))
        Server(name, score, folder).all()
    return score.finish()


def main() -> int:
    """Run all checks, each web server on a server of its own."""
    parser = mtg.arguments("The README's commands for a server.")
    parser.add_argument("--only", choices=("nginx", "caddy"), help="one web server")
    options = parser.parse_args()
    need("caddy curl nginx openssl systemd-sysusers")
    if options.only:
        be_alone()
        return one(options.only, options.mtg.resolve(), (options.work / "ten_minutes").resolve())
    passed = failed = 0
    for name in ("nginx", "caddy"):
        done = subprocess.run([sys.executable, __file__, "--mtg", options.mtg, "--work", options.work, "--only", name], stdout=subprocess.PIPE, encoding="utf-8")
        *lines, last = done.stdout.splitlines() or [""]
        print("\n".join(lines))
        counts = re.fullmatch(r"(\d+) passed, (\d+) failed", last)
        passed, failed = passed + int(counts[1] if counts else 0), failed + int(counts[2] if counts else 1)
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
