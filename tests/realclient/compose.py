"""`image/compose.yaml`: filled in as it says, both doors are open on port 443, and strangers see the site.

podman-compose reads the file. Where containers can run, it starts them; elsewhere, which is said, the same programs
run with the same files, each told by the file what it gets.

Usage: compose.py [--mtg BINARY] [--work FOLDER]. Needs caddy, curl, chromium and openssl.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import mtg
from daemon import running
from front_nginx import EC, HOST, command, make_certificates
from score import Failed, Score, equal
from set_up import set_up
from web_holds import Phone
from web_proxy import KEY, PAGE, ROOT, SECRET

from web_app import App, Dc, Site

PUBLIC = ("127.0.0.1", 443)
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


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("The compose file."), "compose")
    make_certificates(work, EC)
    folder = fill_in(work)
    services = read(folder)
    score.check("podman-compose finds two services", lambda: equal(sorted(services), ["mtg", "web"], "services"))
    for name, service in services.items():
        for volume in service["volumes"]:
            here = volume.split(":")[0]
            score.check(f"{name}: {here} is there", lambda here=here: equal((folder / here).exists(), True, here))
    print("     containers cannot run here: the programs run without, with the same files", flush=True)
    web, proxy = services["web"], services["mtg"]
    caddyfile = folder / "web/compose.caddy"
    environment = {key: without_containers(web, folder, value) for key, value in web["environment"].items()}
    local = work / "Caddyfile"
    local.write_text(without_containers(web, folder, caddyfile.read_text("utf-8")), "utf-8")
    os.environ.update({**environment, "HOME": str(work), "XDG_DATA_HOME": str(work), "XDG_CONFIG_HOME": str(work)})
    caddy = ["caddy", "run", "--adapter", "caddyfile", "--config", local]
    config = next((folder / volume.split(":")[0]).resolve() for volume in proxy["volumes"] if ":/etc/mtg.conf" in volume)
    with running(caddy, ("127.0.0.1", 8443), work / "caddy.log"), running([options.mtg, "run", config], PUBLIC, work / "mtg.log"):
        asyncio.run(check(score, work))
        trust = ("--silent", "--include", "--cacert", work / "ca.pem", "--resolve", f"{HOST}:443:127.0.0.1", "--noproxy", "*")
        for path in ("/", "/?bridge=" + "A" * 43, "/index.html"):
            seen = command("curl", *trust, f"https://{HOST}{path}")
            score.check(f"strangers see the site at {path[:10]}", lambda seen=seen: equal(PAGE in seen, True, seen[:200]))
        there = ("--silent", "--include", "--resolve", f"{HOST}:80:127.0.0.1", "--noproxy", "*")
        moved = command("curl", *there, f"http://{HOST}/x")
        score.check("port 80 leads to the site", lambda: equal(f"Location: https://{HOST}/x" in moved, True, moved[:200]))
        links = json.loads(command(options.mtg, "access", "-i", "127.0.0.1", config))
        score.check("the WEB link is told", lambda: equal(links["web"]["server"], HOST, "server"))
        done = subprocess.run(
            [options.mtg, "doctor", "--health", config], capture_output=True, text=True, timeout=30
        )
        score.check("FakeTLS clients are answered on the same port", lambda: equal(done.returncode, 0, done.stdout))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
