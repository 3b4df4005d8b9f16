"""A folder that looks like a router from inside: busybox, and stand-ins for OpenWrt's scripts and procd."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from command import run

STANDINS = Path(__file__).resolve().parent / "standin"
BUSYBOX = Path("/bin/busybox")
# Debian's busybox has them, OpenWrt's has not.
MISSING_APPLETS = "stat timeout install od xxd base64 nohup realpath diff nproc paste comm shuf tac rev su watch".split()


class Router:
    """One root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root, ignore_errors=True)
        for folder in "bin dev proc etc/config etc/rc.d lib/functions sbin tmp usr/bin usr/lib/opkg/info".split():
            (root / folder).mkdir(parents=True)
        os.symlink("tmp", root / "var")
        os.symlink("../bin", root / "usr/sbin")
        self._install_busybox()
        os.mknod(root / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
        os.chmod(root / "dev/null", 0o666)
        # Not mounted: start-stop-daemon only wants the folder, and finds no process in it.
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/ash\n", "ascii")
        (root / "etc/group").write_text("root:x:0:\n", "ascii")
        shutil.copy(STANDINS / "functions.sh", root / "lib/functions.sh")
        shutil.copy(STANDINS / "procd.sh", root / "lib/functions/procd.sh")
        shutil.copy(STANDINS / "rc.common", root / "etc/rc.common")

    def _install_busybox(self) -> None:
        shutil.copy(BUSYBOX, self.root / "bin/busybox")
        applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, encoding="ascii").stdout.split()
        for applet in set(applets) - set(MISSING_APPLETS) - {"busybox"}:
            os.symlink("busybox", self.root / "bin" / applet)
        # rc.common is an interpreter that is a script itself, which not every kernel's execve takes.
        os.chmod(self.root / "bin/busybox", 0o755)

    def unpack(self, package: Path) -> None:
        """Put a package's files where opkg puts them, without running its scripts."""
        outer = _members(package.read_bytes())
        info = self.root / "usr/lib/opkg/info"
        names = []
        with _tar(outer["./data.tar.gz"]) as data:
            for member in data:
                target = self.root / member.name
                if member.isdir():
                    target.mkdir(exist_ok=True)
                    continue
                names.append("/" + member.name.removeprefix("./"))
                if names[-1] in self._modified_conffiles():
                    target = target.with_name(target.name + "-opkg")
                found = data.extractfile(member)
                assert found
                # As opkg does: a file in use is replaced, not written to.
                target.unlink(missing_ok=True)
                target.write_bytes(found.read())
                os.chown(target, member.uid, member.gid)
                os.chmod(target, member.mode)
        for name, content in _members(outer["./control.tar.gz"]).items():
            path = info / f"mtg.{name.removeprefix('./')}"
            path.write_bytes(content)
            path.chmod(0o755)
        (info / "mtg.list").write_text("".join(f"{name}\n" for name in names), "ascii")

    def _modified_conffiles(self) -> set[str]:
        """This router's owner has touched them all, if they are there."""
        conffiles = self.root / "usr/lib/opkg/info/mtg.conffiles"
        if not conffiles.exists():
            return set()
        return {line for line in conffiles.read_text("ascii").split() if (self.root / line[1:]).exists()}

    def run(self, command: str, code: int = 0, **env: str) -> str:
        """Run a line in the router's own shell; return what it printed."""
        full = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "IPKG_INSTROOT": "", **env}
        return _printed(["chroot", str(self.root), "/bin/sh", "-c", command], code, full)

    def offline(self, script: str, code: int = 0) -> str:
        """Run one of the package's scripts from outside, as an image builder does."""
        full = {"PATH": os.environ["PATH"], "IPKG_INSTROOT": str(self.root), "PKG_ROOT": "/"}
        return _printed(["sh", str(self.root / "usr/lib/opkg/info" / script)], code, full)

    def read(self, path: str) -> str:
        """The text of a file."""
        return (self.root / path.lstrip("/")).read_text("utf-8")


def _printed(command: list[str], code: int, env: dict[str, str]) -> str:
    done = run(command, code, env)
    return done.stdout + done.stderr


def _members(packed: bytes) -> dict[str, bytes]:
    with _tar(packed) as archive:
        found = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {("./" + name.removeprefix("./")): file.read() for name, file in found.items() if file}


def _tar(packed: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed)))
