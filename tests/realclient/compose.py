"""`image/compose.yaml`: filled in as it says, both doors are open on port 443, and strangers see the site.

podman-compose starts the containers as the file says; the images have the programs of this machine. Where no container
can run, which is said with the reason, the same programs run with the same files, each told by the file what it gets.

Usage: compose.py [--mtg BINARY] [--work FOLDER]. Needs podman, runc, caddy, curl, chromium and openssl; root for containers.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

import mtg
from containers import Compose, why_not
from daemon import eventually, running
from front_nginx import EC, HOST, command, make_certificates
from score import Failed, Score, equal
from set_up import set_up
from web_holds import Phone
from web_proxy import KEY, PAGE, ROOT, SECRET

from web_app import App, Dc, Site

PUBLIC = ("127.0.0.1", 443)
SITE = ("127.0.0.1", 8443)
DC = ("127.0.0.12", 9000)


def read(folder: Path) -> dict[str, dict]:
    """The services, as podman-compose understands them."""
    words = [sys.executable, "-m", "podman_compose", "--file", folder / "compose.yaml", "config"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise Failed(f"podman-compose refuses the file: {done.stderr[-300:]}")
    return yaml.safe_load(done.stdout)["services"]


def fill_in(work: Path) -> Path:
    """A copy of the folder with the two values, an own certificate and a site."""
    folder = work / "image"
    shutil.copytree(ROOT / "image", folder)
    (folder / "site").mkdir()
    (folder / "site/index.html").write_text(PAGE, "ascii")
    (folder / "certificates").mkdir()
    for kind in ("pem", "key"):
        shutil.copy(work / f"{HOST}.{kind}", folder / f"certificates/site.{kind}")
    (folder / ".env").write_text(f"HOST={HOST}\nCERTIFICATE=tls /data/site.pem /data/site.key\n", "ascii")
    config = folder / "web/mtg.conf"
    text = config.read_text("ascii").replace("#secret =", f"secret = {SECRET}", 1)
    config.write_text(text + f"dc-override.2 = {DC[0]}:{DC[1]}\n", "ascii")
    config.chmod(0o600)
    return folder


def without_containers(service: dict, folder: Path, text: str) -> str:
    """What a program of a container reads, with its volumes at their places of the machine."""
    for volume in service["volumes"]:
        here, there = volume.split(":")[:2]
        text = re.sub(rf"(?<![\w.]){re.escape(there)}\b", str((folder / here).resolve()), text)
    return text


async def check(score: Score, work: Path) -> None:
    """Both doors and the site."""
    dc = Dc(DC)
    await dc.listen()
    ca = work / "ca.pem"
    site = Site(HOST, "", PUBLIC, ca)

    async def web() -> None:
        async with Phone(work, PUBLIC, "desktop", path="") as phone:
            await phone.connected()
            await phone.echoes(1 << 20)
            equal(phone.faults, [], "faults")

    for claim, attempt in (("an app in Chromium comes in by the WEB link", web),):
        fault: Exception | None = None
        try:
            await attempt()
        except Exception as found:  # noqa: BLE001: whatever it is, it is no success
            fault = Failed(f"{type(found).__name__}: {found}")

        def outcome() -> None:
            if fault:
                raise fault

        score.check(claim, outcome)
    page = await App.page(site, KEY)
    score.check("the page knows its host", lambda: equal(f'relayBase="https://{HOST}/"' in page, True, "base"))


def doors(score: Score, work: Path, run_mtg: Callable[..., str]) -> None:
    """All checks from outside; `run_mtg` runs mtg with words, where the proxy runs."""
    asyncio.run(check(score, work))
    trust = ("--silent", "--include", "--cacert", work / "ca.pem", "--resolve", f"{HOST}:443:127.0.0.1", "--noproxy", "*")
    for path in ("/", "/?bridge=" + "A" * 43, "/index.html"):
        seen = command("curl", *trust, f"https://{HOST}{path}")
        score.check(f"strangers see the site at {path[:10]}", lambda seen=seen: equal(PAGE in seen, True, seen[:200]))
    there = ("--silent", "--include", "--resolve", f"{HOST}:80:127.0.0.1", "--noproxy", "*")
    moved = command("curl", *there, f"http://{HOST}/x")
    score.check("port 80 leads to the site", lambda: equal(f"Location: https://{HOST}/x" in moved, True, moved[:200]))
    links = json.loads(run_mtg("access", "-i", "127.0.0.1", "/etc/mtg.conf"))
    score.check("the WEB link is told", lambda: equal(links["web"]["server"], HOST, "server"))
    score.check("FakeTLS clients are answered on the same port", lambda: run_mtg("doctor", "--health", "/etc/mtg.conf"))


def listens(address: tuple[str, int]) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as attempt:
        return attempt.connect_ex(address) == 0


def in_containers(score: Score, work: Path, folder: Path, binary: Path) -> None:
    """What the file's own command line starts."""
    program = work / "mtg"
    shutil.copy(binary, program)
    caddy = Path(shutil.which("caddy") or "caddy")
    images = {
        # As the last lines of image/Dockerfile.
        "mtg": (program, ['USER 65532:65532', 'ENTRYPOINT ["/mtg"]', 'CMD ["run", "/etc/mtg.conf"]']),
        # As Caddy's own image.
        "web": (caddy, [
            "ENV XDG_CONFIG_HOME=/config", "ENV XDG_DATA_HOME=/data", "ENV HOME=/data",
            'CMD ["/caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]',
        ]),
    }
    with open(folder / ".env", "a", encoding="ascii") as values:
        values.write("MTG_IMAGE=localhost/mtg\nWEB_IMAGE=localhost/web\n")
    with Compose(folder, images) as compose:
        try:
            for address in (PUBLIC, SITE):
                eventually(f"a listener at {address}", 30, lambda address=address: listens(address))
            doors(score, work, lambda *words: compose.run("exec", "-T", "mtg", "/mtg", *words))
            status = compose.run("exec", "-T", "mtg", "/mtg", "--version")
            score.check("the container has this build of mtg", lambda: equal(status, command(binary, "--version"), "version"))
        except (Failed, subprocess.SubprocessError) as fault:
            raise Failed(f"{fault}\n{compose.log()[-1500:]}") from fault


def without(score: Score, work: Path, folder: Path, binary: Path) -> None:
    """The same programs with the same files."""
    services = read(folder)
    web, proxy = services["web"], services["mtg"]
    environment = {key: without_containers(web, folder, value) for key, value in web["environment"].items()}
    local = work / "Caddyfile"
    local.write_text(without_containers(web, folder, (folder / "web/compose.caddy").read_text("utf-8")), "utf-8")
    os.environ.update({**environment, "HOME": str(work), "XDG_DATA_HOME": str(work), "XDG_CONFIG_HOME": str(work)})
    caddy = ["caddy", "run", "--adapter", "caddyfile", "--config", local]
    here = lambda word: without_containers(proxy, folder, word)
    run_mtg = lambda *words: command(binary, *map(here, words))
    with running(caddy, SITE, work / "caddy.log"), running(
        [binary, "run", here("/etc/mtg.conf")], PUBLIC, work / "mtg.log"
    ):
        doors(score, work, run_mtg)


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("The compose file."), "compose", "caddy chromium curl openssl podman runc")
    make_certificates(work, EC)
    folder = fill_in(work)
    services = read(folder)
    score.check("podman-compose finds two services", lambda: equal(sorted(services), ["mtg", "web"], "services"))
    for name, service in services.items():
        for volume in service["volumes"]:
            here = volume.split(":")[0]
            score.check(f"{name}: {here} is there", lambda here=here: equal((folder / here).exists(), True, here))
    reason = why_not()
    if reason:
        print(f"     containers cannot run here, so the programs run without, with the same files: {reason}", flush=True)
        without(score, work, folder, options.mtg)
    else:
        in_containers(score, work, folder, options.mtg)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
