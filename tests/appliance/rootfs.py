"""The archive for servers: unpacked, its unit checked by systemd, its first secret made.

Usage: rootfs.py ARCHIVE, as root; the binary in it is for this machine. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

from command import run

from score import Failed, Score, equal

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target/appliance/server"
SYSTEMD = Path("/lib/systemd/system")
# systemd's own measure of how much a service may do, from 0 to 10.
MOST_EXPOSURE = 2.0
COMMAND_SECS = 60
GROUP = 990


def is_unpacked(archive: Path) -> None:
    """Only files, all of root; no entry for a folder, which would change the server's."""
    shutil.rmtree(WORK, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive.read_bytes()))) as packed:
        for member in packed:
            equal((member.isfile(), member.uid, member.gid), (True, 0, 0), f"file of root: {member.name}")
            if member.name.startswith("etc/"):
                raise Failed(f"{member.name} would be written over what the owner has set")
        packed.extractall(WORK, filter="tar")


def has_the_web_proxy() -> None:
    """Servers have the build with TLS."""
    conf = WORK / "web.conf"
    made = run([WORK / "usr/bin/mtg", "generate-secret", "--web", "www.example.com"]).stdout
    conf.write_text(f"{made}bind-to = 0.0.0.0:3128\nnetwork.dns = tls://192.0.2.1\n", "ascii")
    run([WORK / "usr/bin/mtg", "run", "--check", conf])


def manual_pages_are_found() -> None:
    """By name and section, as `man` looks for them."""
    for section, name, words in ((1, "mtg", "simple-run"), (5, "mtg.conf", "domain-fronting.host"), (7, "mtg", "haproxy")):
        page = WORK / f"usr/share/man/man{section}/{name}.{section}"
        # Bold letters are struck twice.
        shown = re.sub(".\b", "", run(["mandoc", "-T", "utf8", page]).stdout)
        if words not in shown:
            raise Failed(f"{page.name}: {shown[:400]}")


def systemd_takes_the_unit() -> None:
    """No unknown or wrong line in it, and no unit missing that it names. Its pages are looked for elsewhere."""
    for unit in SYSTEMD.glob("*.target"):
        target = WORK / "usr/lib/systemd/system" / unit.name
        if not target.exists():
            shutil.copy(unit, target)
    for program in ("bin/kill", "usr/bin/sh"):
        (WORK / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/kill", WORK / program)
    printed = _systemd_analyze("verify", "--man=no", "--recursive-errors=no", f"--root={WORK}", "mtg.service")
    complaints = [line for line in printed.splitlines() if "mtg" in line]
    equal(complaints, [], "complaints")


def systemd_finds_little_exposure() -> None:
    """A service that needs one port needs little else."""
    printed = _systemd_analyze("security", "--offline=true", f"--root={WORK}", "mtg.service")
    found = re.search(r"Overall exposure level for mtg\.service: ([\d.]+)", printed)
    if not found or float(found.group(1)) > MOST_EXPOSURE:
        raise Failed(f"exposure {found.group(1) if found else printed}, at most {MOST_EXPOSURE}")


def systemd_enables_the_unit() -> None:
    """Beside a script of its name in /etc/init.d it asks the distribution first, and Debian's refuses ours."""
    run(["systemctl", f"--root={WORK}", "enable", "mtg"])
    wanted = WORK / "etc/systemd/system/multi-user.target.wants/mtg.service"
    equal(wanted.is_symlink(), True, "wanted at the start of the machine")


def script_for_openrc_is_where_the_manual_says() -> None:
    """It is copied by hand, as only some servers want it."""
    script = "usr/share/mtg/openrc/mtg"
    equal((WORK / script).stat().st_mode & 0o777, 0o755, f"mode of {script}")
    if f"/{script}" not in (ROOT / "image/man/mtg.1.md").read_text("utf-8"):
        raise Failed(f"/{script} is not in the manual")


def first_secret_is_made() -> None:
    """Once, readable for the service's group and nobody else."""
    (WORK / "etc").mkdir(exist_ok=True)
    (WORK / "etc/group").write_text(f"root:x:0:\nmtg:x:{GROUP}:\n", "ascii")
    (WORK / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n", "ascii")
    shutil.copy("/bin/busybox", WORK / "usr/bin/busybox")
    for applet in "awk cat chmod chown grep head ip ls mv sed sh".split():
        (WORK / "usr/bin" / applet).unlink(missing_ok=True)
        os.symlink("busybox", WORK / "usr/bin" / applet)
    shutil.rmtree(WORK / "bin")
    os.symlink("usr/bin", WORK / "bin")
    conf = WORK / "etc/mtg.conf"
    _make_secret()
    made = conf.read_text("ascii")
    equal(len(re.findall(r"^secret = \S{30,}$", made, re.MULTILINE)), 1, "secrets")
    equal((conf.stat().st_mode & 0o777, conf.stat().st_uid, conf.stat().st_gid), (0o640, 0, GROUP), "mode and owner")
    _make_secret()
    equal(conf.read_text("ascii"), made, "file after a second time")
    _in_chroot("/usr/bin/mtg", "run", "--check")


def _make_secret() -> None:
    _in_chroot("/usr/lib/mtg/first-conf", "/etc/mtg.conf", "/usr/share/mtg/mtg.conf", "www.example.com", "mtg")


def _in_chroot(*command: str) -> None:
    run(["chroot", WORK, *command], env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})


def _systemd_analyze(*arguments: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=COMMAND_SECS,
        check=False,
    )
    return done.stdout


def main(archive: str) -> int:
    """Run all checks."""
    score = Score()
    score.check("the archive unpacks and leaves /etc alone", partial(is_unpacked, Path(archive)))
    score.check("it has the WEB proxy, and TLS", has_the_web_proxy)
    score.check("man finds the pages", manual_pages_are_found)
    score.check("systemd takes the unit", systemd_takes_the_unit)
    score.check("systemd enables the unit", systemd_enables_the_unit)
    score.check("the script for OpenRC is where the manual says", script_for_openrc_is_where_the_manual_says)
    score.check("systemd finds little that the service may do", systemd_finds_little_exposure)
    score.check("the first start makes a secret, and only the first", first_secret_is_made)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
