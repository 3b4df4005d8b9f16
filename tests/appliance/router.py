"""A folder that looks like a router from inside: busybox, and stand-ins for OpenWrt's scripts, procd, opkg and apk."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from apk_reader import Apk
from command import run

STANDINS = Path(__file__).resolve().parent / "standin"
BUSYBOX = Path("/bin/busybox")
# Debian's busybox has them, OpenWrt's has not.
MISSING_APPLETS = "stat timeout install od xxd base64 nohup realpath diff nproc paste comm shuf tac rev su watch".split()
OPKG = "usr/lib/opkg/info"
APK = "lib/apk/packages"


def be_alone() -> None:
    """Start this program again where its mounts and all processes that it has started go with it."""
    if os.environ.get("ALONE"):
        return
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    # The first process of such a space is the one that all orphans fall to, and the shell takes care of them.
    command = [*spaces, "sh", "-c", '"$@"; exit $?', "sh", sys.executable, *sys.argv]
    os.execvpe(spaces[0], command, {**os.environ, "ALONE": "1"})


class Router:
    """One root folder."""

    def __init__(self, root: Path, free_kib: int = 0) -> None:
        """`free_kib`: how much may be put onto it, if that has a limit."""
        self.root = root
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        # A file system of its own, as far as programs in it can see.
        run(["mount", "-t", "tmpfs", "tmpfs", root] if free_kib else ["mount", "--bind", root, root])
        folders = f"bin dev proc etc/config etc/rc.d lib/functions mnt sbin tmp usr/bin {OPKG} {APK}"
        for folder in folders.split():
            (root / folder).mkdir(parents=True)
        os.symlink("tmp", root / "var")
        (root / "tmp/run").mkdir()
        os.symlink("../bin", root / "usr/sbin")
        self._install_busybox()
        os.mknod(root / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
        os.chmod(root / "dev/null", 0o666)
        # As on a router, where one program that runs looks like another of the same file.
        run(["mount", "-t", "proc", "proc", root / "proc"])
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/ash\n", "ascii")
        (root / "etc/group").write_text("root:x:0:\n", "ascii")
        for name, place in (
            ("functions.sh", "lib/functions.sh"),
            ("procd.sh", "lib/functions/procd.sh"),
            ("rc.common", "etc/rc.common"),
            ("ubus", "bin/ubus"),
        ):
            shutil.copy(STANDINS / name, root / place)
        self._install_flock()
        if free_kib:
            used = os.statvfs(root)
            kib = (used.f_blocks - used.f_bfree) * used.f_frsize // 1024
            run(["mount", "-o", f"remount,size={kib + free_kib}k", root])

    def _install_flock(self) -> None:
        """OpenWrt's busybox has it, Debian's has not."""
        program = shutil.which("flock")
        assert program
        libraries = [word for word in run(["ldd", program]).stdout.split() if word.startswith("/")]
        for path in [Path(program).resolve(), *map(Path, libraries)]:
            target = self.root / ("bin/flock" if path.name == "flock" else str(path).lstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    def _install_busybox(self) -> None:
        shutil.copy(BUSYBOX, self.root / "bin/busybox")
        applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, encoding="ascii").stdout.split()
        for applet in set(applets) - set(MISSING_APPLETS) - {"busybox"}:
            os.symlink("busybox", self.root / "bin" / applet)
        # rc.common is an interpreter that is a script itself, which not every kernel's execve takes.
        os.chmod(self.root / "bin/busybox", 0o755)

    def opkg_install(self, package: Path, code: int = 0) -> str:
        """What opkg does with a package's file, in its order; returns what is printed.

        It refuses a package that conflicts with one that is there, and one whose preinst fails. A configuration that
        its owner has changed is kept, and the new one put beside it with a complaint; what an older version had and
        the new one has not is deleted.
        """
        outer = _members(package.read_bytes())
        control = _members(outer["./control.tar.gz"])
        fields = dict(line.split(": ", 1) for line in control["./control"].decode().splitlines() if line[0] != " ")
        name, info = fields["Package"], self.root / OPKG
        for other in fields.get("Conflicts", "").split(", "):
            if (info / f"{other}.control").exists():
                return self._refused(f"The following packages conflict with {name}: {other}", code)
        preinst = self.root / "tmp/preinst"
        preinst.write_bytes(control["./preinst"])
        preinst.chmod(0o755)
        try:
            printed = self.run("/tmp/preinst install")
        except Exception as fault:  # noqa: BLE001
            return self._refused(str(fault), code)
        before = self._owned(name)
        if before:
            printed += self.run(f"/{OPKG}/{name}.prerm upgrade", PKG_UPGRADE="1")
        printed += self._unpack(name, outer["./data.tar.gz"], control)
        for path in set(before) - set(self._owned(name)):
            (self.root / path.lstrip("/")).unlink(missing_ok=True)
        printed += self.run(f"/{OPKG}/{name}.postinst configure", PKG_UPGRADE=str(int(bool(before))))
        return printed if code == 0 else self._refused("it was installed", code)

    @staticmethod
    def _refused(why: str, code: int) -> str:
        if code == 0:
            raise ValueError(why)
        return why

    def opkg_unpack(self, package: Path) -> None:
        """Only the files, as an image builder does at first."""
        outer = _members(package.read_bytes())
        control = _members(outer["./control.tar.gz"])
        self._unpack(package.name.partition("_")[0], outer["./data.tar.gz"], control)

    def _unpack(self, name: str, data: bytes, control: dict[str, bytes]) -> str:
        printed, info, names = "", self.root / OPKG, []
        hashes = self._hashes(name)
        conffiles = control.get("./conffiles", b"").decode().split()
        with _tar(data) as archive:
            for member in archive:
                target = self.root / member.name
                if member.isdir():
                    target.mkdir(exist_ok=True)
                    continue
                path = "/" + member.name.removeprefix("./")
                names.append(path)
                found = archive.extractfile(member)
                assert found
                content = found.read()
                if path in conffiles and target.exists():
                    if hashes.get(path) != _sha256(target.read_bytes()):
                        printed += f"Collected errors: existing conffile {path} is different, kept beside -opkg\n"
                        target = target.with_name(target.name + "-opkg")
                # As opkg does: a file in use is replaced, not written to.
                target.unlink(missing_ok=True)
                target.write_bytes(content)
                os.chown(target, member.uid, member.gid)
                os.chmod(target, member.mode)
                if path in conffiles:
                    hashes[path] = _sha256(content)
        for part, content in control.items():
            file = info / f"{name}.{part.removeprefix('./')}"
            file.write_bytes(content)
            file.chmod(0o755)
        (info / f"{name}.list").write_text("".join(f"{path}\n" for path in names), "ascii")
        (info / f"{name}.hashes").write_text("".join(f"{path} {digest}\n" for path, digest in hashes.items()), "ascii")
        return printed

    def _hashes(self, name: str) -> dict[str, str]:
        """What opkg knows of the configuration files that it has installed."""
        file = self.root / OPKG / f"{name}.hashes"
        return dict(line.split(" ") for line in file.read_text("ascii").splitlines()) if file.exists() else {}

    def _owned(self, name: str, info: str = OPKG) -> list[str]:
        file = self.root / info / f"{name}.list"
        return file.read_text("ascii").split() if file.exists() else []

    def opkg_remove(self, name: str) -> None:
        """Everything goes but what its owner has changed."""
        self.run(f"/{OPKG}/{name}.prerm remove")
        hashes = self._hashes(name)
        for path in self._owned(name):
            file = self.root / path.lstrip("/")
            if file.exists() and (path not in hashes or hashes[path] == _sha256(file.read_bytes())):
                file.unlink()
        for file in (self.root / OPKG).glob(f"{name}.*"):
            file.unlink()

    def apk_add(self, package: Path) -> str:
        """What apk does with a package's file; returns what is printed.

        Everything below /etc that was changed since the installation is kept, and the new one put beside it. On an
        upgrade only the new package's scripts run.
        """
        apk = Apk(package.read_bytes())
        name = apk.about["name"]
        is_upgrade = (self.root / APK / f"{name}.hashes").exists()
        printed = self._script(apk, "pre-upgrade" if is_upgrade else "pre-install")
        file = self.root / APK / f"{name}.hashes"
        known = dict(line.split(" ") for line in file.read_text("ascii").splitlines()) if is_upgrade else {}
        for folder in apk.folders:
            (self.root / folder).mkdir(exist_ok=True)
        hashes = {}
        for entry in apk.files:
            target = self.root / entry.path
            if entry.path.startswith("etc/") and target.exists():
                if known.get(entry.path) != _sha256(target.read_bytes()):
                    target = target.with_name(target.name + ".apk-new")
            target.unlink(missing_ok=True)
            target.write_bytes(entry.content)
            os.chmod(target, entry.mode)
            hashes[entry.path] = _sha256(entry.content)
        file.write_text("".join(f"{path} {digest}\n" for path, digest in hashes.items()), "ascii")
        (self.root / APK / f"{name}.prerm").write_text(apk.scripts["pre-deinstall"], "utf-8")
        return printed + self._script(apk, "post-upgrade" if is_upgrade else "post-install")

    def _script(self, apk: Apk, which: str) -> str:
        file = self.root / "tmp/script"
        file.write_text(apk.scripts[which], "utf-8")
        file.chmod(0o755)
        return self.run("/tmp/script")

    def run(self, command: str, code: int = 0, **env: str) -> str:
        """Run a line in the router's own shell; return what it printed."""
        full = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "IPKG_INSTROOT": "", **env}
        return _printed(["chroot", str(self.root), "/bin/sh", "-c", command], code, full)

    def offline(self, script: str, code: int = 0) -> str:
        """Run one of the package's scripts from outside, as an image builder does."""
        full = {"PATH": os.environ["PATH"], "IPKG_INSTROOT": str(self.root), "PKG_ROOT": "/"}
        return _printed(["sh", str(self.root / OPKG / script)], code, full)

    def read(self, path: str) -> str:
        """The text of a file, or nothing."""
        file = self.root / path.lstrip("/")
        return file.read_text("utf-8") if file.exists() else ""


def _printed(command: list[str], code: int, env: dict[str, str]) -> str:
    done = run(command, code, env)
    return done.stdout + done.stderr


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _members(packed: bytes) -> dict[str, bytes]:
    with _tar(packed) as archive:
        found = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {("./" + name.removeprefix("./")): file.read() for name, file in found.items() if file}


def _tar(packed: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed)))
