"""scripts/verify takes what scripts/sign has signed, and finds each byte, file and signature that is not of it.

Usage: signing.py
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def verified(folder: Path, key: Path) -> bool:
    """Whether a stranger would take it."""
    return subprocess.run([SCRIPTS / "verify", key, folder], check=False, stdout=subprocess.DEVNULL).returncode == 0


def key_pair(folder: Path, name: str) -> Path:
    """A key without a password, for this test; the path of the public half."""
    public = folder / f"{name}.pub"
    command = ["minisign", "-G", "-W", "-s", folder / f"{name}.key", "-p", public]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return public


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap_file(dist: Path) -> None:
    """Change a file and its line in the sums, but not the signature."""
    flip(dist / "mtg")
    sums = (dist / "SHA256SUMS").read_text().splitlines()
    sums[0] = f"{hashlib.sha256((dist / 'mtg').read_bytes()).hexdigest()}  mtg"
    (dist / "SHA256SUMS").write_text("\n".join(sums) + "\n")


FORGERIES = {
    "a flipped bit of a file": lambda dist: flip(dist / "mtg"),
    "a file with sums of its own": swap_file,
    "a file that is gone": lambda dist: (dist / "openwrt/Packages").unlink(),
    "a file that was added": lambda dist: (dist / "openwrt/more").write_text("more"),
    "a link that was added": lambda dist: (dist / "link").symlink_to("mtg"),
    "no signature": lambda dist: (dist / "SHA256SUMS.minisig").unlink(),
}


def main() -> int:
    """Try all; return the exit code."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shutil.copytree(SCRIPTS, work / "scripts")
        dist = work / "dist"
        (dist / "openwrt").mkdir(parents=True)
        (dist / "mtg").write_bytes(bytes(range(256)) * 9)
        (dist / "openwrt/Packages").write_text("Package: mtg\n")
        with (dist / "SHA256SUMS").open("wb") as sums:
            subprocess.run(["sha256sum", "mtg", "openwrt/Packages"], cwd=dist, check=True, stdout=sums)
        ours, other = key_pair(work, "ours"), key_pair(work, "other")
        subprocess.run([work / "scripts/sign"], check=True, env={**os.environ, "MTG_SIGN_KEY": str(work / "ours.key")})
        failed = [] if verified(dist, ours) else ["what was signed is not taken"]
        failed += ["another key's signature is taken"] if verified(dist, other) else []
        for what, forge in FORGERIES.items():
            forged = work / "forged"
            shutil.rmtree(forged, ignore_errors=True)
            shutil.copytree(dist, forged, symlinks=True)
            forge(forged)
            failed += [f"{what} is taken"] if verified(forged, ours) else []
    print("\n".join(failed) or f"{len(FORGERIES) + 1} forgeries are found")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
