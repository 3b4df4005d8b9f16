"""The packages for opkg: their format, and their life on a router that is a folder.

Usage: ipk.py FEED ARCHITECTURE, as root; the architecture is this machine's. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import re
import shutil
import socket
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from router import Router
from visits import SECRET, Visits, settings

import loopback_only
from loop_thread import LoopThread
from score import Failed, Score, equal

ROOT = Path(__file__).resolve().parents[2]
PORT = 8443
TEST_PORT = 3128
SERVICE = "/etc/init.d/mtg"
FILES = {
    "./etc/capabilities/mtg.json": 0o644,
    "./etc/config/mtg": 0o644,
    "./etc/init.d/mtg": 0o755,
    "./etc/mtg.conf": 0o600,
    "./etc/uci-defaults/95-mtg": 0o644,
    "./lib/upgrade/keep.d/mtg": 0o644,
    "./usr/bin/mtg": 0o755,
    "./usr/lib/mtg/first-secret": 0o755,
}
CONTROL = {"./control": 0o644, "./conffiles": 0o644, "./postinst": 0o755, "./prerm": 0o755}
WAIT_SECS = 20


class Package:
    """What every package's file must be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._architecture = path.parent.name
        self._name = path.name.partition("_")[0]

    def all(self, score: Score) -> None:
        """Every check."""
        name = f"{self._name} for {self._architecture}"
        score.check(f"{name}: three members, gzipped tars in GNU format, owned by root", self._is_an_ipk)
        score.check(f"{name}: the control fields fit", self._control_fits)
        score.check(f"{name}: the index leads to the package", self._index_fits)

    def _is_an_ipk(self) -> None:
        content = self._path.read_bytes()
        outer = _listing(content)
        equal(list(outer), ["./debian-binary", "./data.tar.gz", "./control.tar.gz"], "members")
        equal(_read(content, "./debian-binary"), b"2.0\n", "debian-binary")
        equal(_listing(_read(content, "./data.tar.gz")), FILES, "files and modes")
        equal(_listing(_read(content, "./control.tar.gz")), CONTROL, "control files and modes")

    def _control_fits(self) -> None:
        fields = _fields(_read(_read(self._path.read_bytes(), "./control.tar.gz"), "./control"))
        data = gzip.decompress(_read(self._path.read_bytes(), "./data.tar.gz"))
        equal(fields["Package"], self._name, "package")
        # Never both at once.
        equal(fields.get("Conflicts"), None if self._name == "mtg" else "mtg", "conflicts")
        equal(fields["Architecture"], self._architecture, "architecture")
        equal(fields["Installed-Size"], str(len(data)), "installed size")
        equal(self._path.name, f"{self._name}_{fields['Version']}_{self._architecture}.ipk", "file name")
        if not re.fullmatch(r"\d+\.\d+\.\d+-r\d+", fields["Version"]):
            raise Failed(f"version {fields['Version']}")
        epoch = int(fields["SourceDateEpoch"])
        # The newest date below /etc becomes the clock of a router that boots without one.
        if not 1_767_225_600 <= epoch <= time.time():
            raise Failed(f"dated {epoch}")

    def _index_fits(self) -> None:
        packages = (self._path.parent / "Packages").read_bytes()
        equal(gzip.decompress((self._path.parent / "Packages.gz").read_bytes()), packages, "Packages.gz")
        entries = [_fields(entry) for entry in packages.split(b"\n\n") if entry]
        equal([entry["Package"] for entry in entries], ["mtg", "mtg-tls"], "packages")
        fields = next(entry for entry in entries if entry["Package"] == self._name)
        content = self._path.read_bytes()
        equal(fields["Filename"], self._path.name, "file name")
        equal(fields["Size"], str(len(content)), "size")
        equal(fields["SHA256sum"], hashlib.sha256(content).hexdigest(), "checksum")


class Life:
    """A package on a router, from its installation to its removal; the checks build on one another."""

    def __init__(self, package: Path, work: Path, score: Score) -> None:
        self._package = package
        self._work = work
        self._score = score
        self._router = Router(work / "router")

    def all(self, loop: LoopThread) -> None:
        """Every check, in order."""
        visits = Visits(("127.0.0.1", TEST_PORT))
        loop.run(visits.listen("127.0.0.2"))
        checks: tuple[tuple[str, Callable[[], None]], ...] = (
            ("an image builder gets a service that is enabled, and no secret", self._offline),
            ("an installation makes a secret, prints the link and starts the service", self._install),
            ("the service runs as a user of its own, with many descriptors", self._is_unprivileged),
            ("its port is open in the firewall, which is told so", self._firewall),
            ("a second start changes nothing", self._second_start),
            ("every router has another secret", self._other_secret),
            ("reload with a mistake is refused and leaves the service alone", self._bad_reload),
            ("reload does not restart", self._good_reload),
            ("restart takes a new configuration", self._restart),
            ("the zone may be empty", self._no_zone),
            ("a port below 1024 takes a capability in a jail", self._low_port),
            ("without a jail such a port takes root, with a warning", self._low_port_without_jail),
            ("an upgrade keeps the configuration and restarts the service", self._upgrade),
        )
        for claim, check in checks:
            self._score.check(claim, check)
        visits.all(self._score, loop, "on the router")
        self._score.check("stop ends the process, start brings it back", self._stop)
        self._score.check("a removal leaves no process and no links", self._remove)

    def _offline(self) -> None:
        image = Router(self._work / "image")
        image.unpack(self._package)
        before = image.read("/etc/mtg.conf")
        image.offline("mtg.postinst")
        equal(sorted(os.listdir(image.root / "etc/rc.d")), ["K10mtg", "S95mtg"], "links")
        equal(image.read("/etc/mtg.conf"), before, "configuration")
        if not (image.root / "etc/uci-defaults/95-mtg").exists():
            raise Failed("nothing is left for the first boot")
        # The first boot.
        image.run("cd /etc/uci-defaults && . ./95-mtg")
        _secret_in(image)
        image.offline("mtg.prerm")
        equal(os.listdir(image.root / "etc/rc.d"), [], "links after the removal")

    def _install(self) -> None:
        self._router.unpack(self._package)
        printed = self._router.run("/usr/lib/opkg/info/mtg.postinst configure")
        secret = _secret_in(self._router)
        # No address is known in here, so there is no code either.
        if f"&secret={secret}&server=ADDRESS" not in printed:
            raise Failed(f"the link was not printed: {printed}")
        _wait_for_port(PORT)
        # The service says by default that it is there, and nothing else as long as all is well; but in here there is no
        # front.
        log = self._router.read("/tmp/log").splitlines()
        usual = ("NOTICE listening bind-to=", "WARN the front cannot be reached")
        equal([line for line in log if not line.startswith(usual)], [], "log")
        equal((self._router.root / "etc/uci-defaults/95-mtg").exists(), False, "defaults to run again")
        equal(sorted(os.listdir(self._router.root / "etc/rc.d")), ["K10mtg", "S95mtg"], "links")

    def _is_unprivileged(self) -> None:
        status = Path(f"/proc/{self._pid()}/status").read_text("ascii")
        equal(re.findall(r"^[UG]id:\t(\d+)\t(\d+)", status, re.MULTILINE), [("32768", "32768")] * 2, "user and group")
        equal(re.findall(r"^NoNewPrivs:\t(\d)", status, re.MULTILINE), ["1"], "no new privileges")
        limits = Path(f"/proc/{self._pid()}/limits").read_text("ascii")
        equal(re.findall(r"^Max open files +(\d+)", limits, re.MULTILINE), ["17000"], "open files")
        conf = (self._router.root / "etc/mtg.conf").stat()
        equal((conf.st_mode & 0o777, conf.st_uid, conf.st_gid), (0o640, 0, 32768), "mode and owner of the file")

    def _firewall(self) -> None:
        for line in ("array firewall", "data src wan", f"data dest_port {PORT}", "data target ACCEPT"):
            self._has_parameter(line)
        equal(set(self._router.read("/tmp/procd/changed").split()), {"firewall"}, "what was told")

    def _second_start(self) -> None:
        before = self._pid()
        self._router.run(f"{SERVICE} start")
        equal(self._pid(), before, "process")

    def _other_secret(self) -> None:
        other = Router(self._work / "other")
        other.unpack(self._package)
        other.run(f"{SERVICE} first_secret")
        if _secret_in(other) == _secret_in(self._router):
            raise Failed("both have the same")

    def _bad_reload(self) -> None:
        good, before = self._router.read("/etc/mtg.conf"), self._pid()
        self._write_conf(good + "bind = nonsense\n")
        printed = self._router.run(f"{SERVICE} reload", code=1)
        equal(self._pid(), before, "process")
        if "bind" not in printed:
            raise Failed(f"no reason was given: {printed}")
        self._write_conf(good)

    def _good_reload(self) -> None:
        before = self._pid()
        self._router.run(f"{SERVICE} reload")
        time.sleep(0.5)
        self._router.run(f"{SERVICE} running")
        equal(self._pid(), before, "process")

    def _restart(self) -> None:
        lines = [("bind-to", f"127.0.0.1:{TEST_PORT}"), *settings("127.0.0.2")]
        self._write_conf("".join(f"{key} = {value}\n" for key, value in lines))
        before = self._pid()
        self._router.run(f"{SERVICE} restart")
        self._wait_for_log(f"listening bind-to=127.0.0.1:{TEST_PORT}")
        equal(self._pid() == before, False, "same process")
        if f"&secret={_in_links(SECRET.hex())}&" not in self._router.run(f"{SERVICE} link"):
            raise Failed("the link has another secret")

    def _no_zone(self) -> None:
        config = self._router.root / "etc/config/mtg"
        text = config.read_text("ascii")
        config.write_text(text.replace("option zone 'wan'", "option zone ''"), "ascii")
        self._router.run(f"{SERVICE} start")
        if "firewall" in self._router.read("/tmp/procd/mtg"):
            raise Failed("the port is open")
        config.write_text(text, "ascii")

    def _low_port(self) -> None:
        jail = self._router.root / "sbin/ujail"
        jail.touch(0o755)
        parameters = self._parameters_with_low_port()
        for line in ("user mtg", "capabilities /etc/capabilities/mtg.json", "no_new_privs 1", "jail mtg log"):
            if line not in parameters:
                raise Failed(f"no {line!r} in {parameters}")
        jail.unlink()

    def _low_port_without_jail(self) -> None:
        if parameters := [line for line in self._parameters_with_low_port() if line.startswith("user")]:
            raise Failed(f"{parameters}, and nothing lets it listen")

    def _parameters_with_low_port(self) -> list[str]:
        conf = self._router.read("/etc/mtg.conf")
        self._write_conf(conf.replace(f":{TEST_PORT}", ":443"))
        self._router.run(f"{SERVICE} start")
        parameters = self._router.read("/tmp/procd/mtg").splitlines()
        self._write_conf(conf)
        self._router.run(f"{SERVICE} start")
        return parameters

    def _upgrade(self) -> None:
        before, conf = self._pid(), self._router.read("/etc/mtg.conf")
        self._router.run("/usr/lib/opkg/info/mtg.prerm upgrade", PKG_UPGRADE="1")
        self._router.unpack(self._package)
        self._router.run("/usr/lib/opkg/info/mtg.postinst configure", PKG_UPGRADE="1")
        equal(self._router.read("/etc/mtg.conf"), conf, "configuration")
        equal(self._pid() == before, False, "same process")
        self._wait_for_log(f"listening bind-to=127.0.0.1:{TEST_PORT}")

    def _stop(self) -> None:
        process = Path(f"/proc/{self._pid()}")
        self._router.run(f"{SERVICE} stop")
        equal(process.exists(), False, "process there")
        self._router.run(f"{SERVICE} running", code=1)
        self._router.run(f"{SERVICE} start")
        self._router.run(f"{SERVICE} running")

    def _remove(self) -> None:
        process = Path(f"/proc/{self._pid()}")
        self._router.run("/usr/lib/opkg/info/mtg.prerm remove")
        equal(process.exists(), False, "process there")
        equal(os.listdir(self._router.root / "etc/rc.d"), [], "links")

    def end(self) -> None:
        """Leave no process behind, whatever failed."""
        try:
            self._router.run(f"[ ! -x {SERVICE} ] || {SERVICE} stop")
        except Failed as fault:
            print(fault)

    def _pid(self) -> int:
        return int(self._router.read("/tmp/procd/mtg.pid"))

    def _has_parameter(self, line: str) -> None:
        if line not in (parameters := self._router.read("/tmp/procd/mtg").splitlines()):
            raise Failed(f"no {line!r} in {parameters}")

    def _write_conf(self, text: str) -> None:
        path = self._router.root / "etc/mtg.conf"
        path.write_text(text, "utf-8")

    def _wait_for_log(self, line: str) -> None:
        deadline = time.monotonic() + WAIT_SECS
        # Of the latest start; what the front answers may follow.
        while line not in self._router.read("/tmp/log").rpartition("connection limit")[2]:
            if time.monotonic() > deadline:
                raise Failed(f"no {line!r} since the last start: {self._router.read('/tmp/log')}")
            time.sleep(0.05)


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + WAIT_SECS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _secret_in(router: Router) -> str:
    found = re.findall(r"^secret = (\S+)$", router.read("/etc/mtg.conf"), re.MULTILINE)
    equal(len(found), 1, "secrets")
    return found[0]


def _in_links(secret: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(secret)).decode().rstrip("=")


def _fields(text: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.decode().splitlines() if line and not line.startswith(" "))


def _listing(packed: bytes) -> dict[str, int]:
    """Names and modes of the files; opkg skips what has a PAX header."""
    content = gzip.decompress(packed)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            equal((member.uid, member.gid, member.pax_headers), (0, 0, {}), f"owner and PAX headers of {member.name}")
            if member.isfile():
                found[member.name] = member.mode
            else:
                equal((member.isdir(), member.mode), (True, 0o755), f"folder {member.name}")
    return found


def _read(packed: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
        found = archive.extractfile(name)
        assert found
        return found.read()


def main(feed: str, architecture: str) -> int:
    """Run all checks."""
    score = Score()
    packages = sorted(Path(feed).glob("*/*.ipk"))
    for path in packages:
        Package(path).all(score)
    own = [path for path in packages if path.parent.name == architecture and path.name.startswith("mtg_")]
    equal(len(own), 1, f"packages for {architecture}")
    loopback_only.enter()
    work = ROOT / "target/appliance/routers"
    shutil.rmtree(work, ignore_errors=True)
    with LoopThread() as loop:
        life = Life(own[0], work, score)
        try:
            life.all(loop)
        finally:
            life.end()
    return score.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
