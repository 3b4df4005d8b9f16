"""The packages for opkg: their format, and their life on a router that is a folder.

Usage: ipk.py FEED ARCHITECTURE, as root; the architecture is this machine's. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import shutil
import sys
import tarfile
import time
from pathlib import Path

from life import Life
from router import be_alone

import loopback_only
from loop_thread import LoopThread
from score import Failed, Score, equal

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "./etc/capabilities/mtg.json": 0o644,
    "./etc/config/mtg": 0o644,
    "./etc/init.d/mtg": 0o755,
    "./etc/uci-defaults/95-mtg": 0o644,
    "./lib/upgrade/keep.d/mtg": 0o644,
    "./usr/bin/mtg": 0o755,
    "./usr/lib/mtg/first-conf": 0o755,
    "./usr/lib/mtg/watch-port": 0o755,
    "./usr/share/mtg/mtg.conf": 0o644,
}
LUCI_FILES = {
    "./etc/uci-defaults/luci-app-mtg": 0o644,
    **{f"./usr/lib/lua/luci/i18n/mtg.{language}.lmo": 0o644 for language in ("fa", "ru", "zh-cn")},
    "./usr/libexec/mtg-luci": 0o755,
    "./usr/share/luci/menu.d/luci-app-mtg.json": 0o644,
    "./usr/share/rpcd/acl.d/luci-app-mtg.json": 0o644,
    "./www/luci-static/resources/mtg/conf.js": 0o644,
    "./www/luci-static/resources/view/mtg/overview.js": 0o644,
}
CONTROL = {"./control": 0o644, "./conffiles": 0o644, "./preinst": 0o755, "./postinst": 0o755, "./prerm": 0o755}
EXCLUDES = {"mtg": "mtg-tls", "mtg-tls": "mtg"}


class Package:
    """What every package's file must be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._architecture = path.parent.name
        self._name = path.name.partition("_")[0]
        self._is_for_all = path.stem.endswith("_all")

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
        files, control = (_listing(_read(content, f"./{name}.tar.gz")) for name in ("data", "control"))
        if self._is_for_all:
            equal(files, LUCI_FILES, "files and modes")
            equal(control, {name: mode for name, mode in CONTROL.items() if name != "./conffiles"}, "control files and modes")
        else:
            equal(files, FILES, "files and modes")
            equal(control, CONTROL, "control files and modes")

    def _control_fits(self) -> None:
        fields = _fields(_read(_read(self._path.read_bytes(), "./control.tar.gz"), "./control"))
        data = gzip.decompress(_read(self._path.read_bytes(), "./data.tar.gz"))
        architecture = "all" if self._is_for_all else self._architecture
        equal(fields["Package"], self._name, "package")
        # Never both at once; and opkg would end the one's service for what it "Replaces".
        equal(fields.get("Conflicts"), EXCLUDES.get(self._name), "conflicts")
        equal("Replaces" in fields, False, "replaces something")
        equal(fields["Architecture"], architecture, "architecture")
        equal(fields["Installed-Size"], str(len(data)), "installed size")
        equal(self._path.name, f"{self._name}_{fields['Version']}_{architecture}.ipk", "file name")
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
        equal([entry["Package"] for entry in entries][:2], ["mtg", "mtg-tls"], "packages")
        fields = next(entry for entry in entries if entry["Package"] == self._name)
        content = self._path.read_bytes()
        equal(fields["Filename"], self._path.name, "file name")
        equal(fields["Size"], str(len(content)), "size")
        equal(fields["SHA256sum"], hashlib.sha256(content).hexdigest(), "checksum")


def contents(package: Path) -> dict[str, bytes]:
    """The files that a package puts onto the router."""
    packed = gzip.decompress(_read(package.read_bytes(), "./data.tar.gz"))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        found = {member.name.removeprefix("./"): archive.extractfile(member) for member in archive if member.isfile()}
        return {path: file.read() for path, file in found.items() if file}


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
    be_alone()
    score = Score()
    packages = sorted(Path(feed).glob("*/*.ipk"))
    for path in packages:
        Package(path).all(score)
    own = {path.name.partition("_")[0]: path for path in packages if path.parent.name == architecture}
    equal({"mtg", "mtg-tls", "luci-app-mtg"} - own.keys(), set(), f"packages missing for {architecture}")
    loopback_only.enter()
    work = ROOT / "target/appliance/routers"
    shutil.rmtree(work, ignore_errors=True)
    with LoopThread() as loop:
        life = Life(own, work, score)
        try:
            life.all(loop)
        finally:
            life.end()
    return score.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
