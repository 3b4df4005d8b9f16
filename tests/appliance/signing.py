"""scripts/verify takes what scripts/sign has signed, and finds each byte, file and signature that is not of it.

Nor does either take binaries of which it is not proved that two folders gave the same bytes.

Usage: signing.py
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


BINARY = "mtg-0.1.0-mips-unknown-linux-musl"


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


def sum_all(dist: Path) -> None:
    """Sums of the files as they are."""
    names = sorted(str(path.relative_to(dist)) for path in dist.rglob("*") if path.is_file())
    names = [name for name in names if not name.startswith("SHA256SUMS")]
    with (dist / "SHA256SUMS").open("wb") as sums:
        subprocess.run(["sha256sum", *names], cwd=dist, check=True, stdout=sums)


def swap_file(dist: Path) -> None:
    """Change a file and its line in the sums, but not the signature."""
    flip(dist / BINARY)
    sum_all(dist)


def write_provenance(dist: Path, second: str | None, **notes: bool) -> None:
    """That of the one binary, with the sum that the second folder gave, and notes on the sources."""
    digest = hashlib.sha256((dist / BINARY).read_bytes()).hexdigest()
    seconds = [{"name": BINARY, "digest": {"sha256": second or digest}}] if second != "" else []
    sources = {"resolvedDependencies": [{"uri": "git:mtg", "annotations": notes}]}
    predicate = {"buildDefinition": sources, "runDetails": {"byproducts": seconds}}
    told = {"subject": [{"name": BINARY, "digest": {"sha256": digest}}], "predicate": predicate}
    (dist / "provenance.json").write_text(json.dumps(told))
    sum_all(dist)


def publish_another(dist: Path) -> None:
    """A binary that is not the one that was built."""
    flip(dist / BINARY)
    sum_all(dist)


def sign(work: Path) -> bool:
    """Whether it is signed."""
    environment = {**os.environ, "MTG_SIGN_KEY": str(work / "ours.key")}
    done = subprocess.run([work / "scripts/sign"], check=False, env=environment, stderr=subprocess.DEVNULL)
    return done.returncode == 0


FORGERIES = {
    "a flipped bit of a file": lambda dist: flip(dist / BINARY),
    "a file with sums of its own": swap_file,
    "a file that is gone": lambda dist: (dist / "openwrt/Packages").unlink(),
    "a file that was added": lambda dist: (dist / "openwrt/more").write_text("more"),
    "a link that was added": lambda dist: (dist / "link").symlink_to(BINARY),
    "no signature": lambda dist: (dist / "SHA256SUMS.minisig").unlink(),
}
# What our own key must not sign.
UNPROVED = {
    "a binary that was built once only": lambda dist: write_provenance(dist, ""),
    "a binary that came out differently": lambda dist: write_provenance(dist, "0" * 64),
    "a binary that is not the one that was built": publish_another,
    "a binary of sources that are in no commit": lambda dist: write_provenance(dist, None, changed=True),
}


def main() -> int:
    """Try all; return the exit code."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shutil.copytree(SCRIPTS, work / "scripts")
        dist = work / "dist"
        (dist / "openwrt").mkdir(parents=True)
        (dist / BINARY).write_bytes(bytes(range(256)) * 9)
        (dist / "openwrt/Packages").write_text("Package: mtg\n")
        write_provenance(dist, None)
        ours, other = key_pair(work, "ours"), key_pair(work, "other")
        failed = [] if sign(work) and verified(dist, ours) else ["what was signed is not taken"]
        failed += ["another key's signature is taken"] if verified(dist, other) else []
        for what, forge in FORGERIES.items():
            forged = work / "forged"
            shutil.rmtree(forged, ignore_errors=True)
            shutil.copytree(dist, forged, symlinks=True)
            forge(forged)
            failed += [f"{what} is taken"] if verified(forged, ours) else []
        kept = work / "kept"
        dist.rename(kept)
        for what, change in UNPROVED.items():
            shutil.copytree(kept, dist)
            change(dist)
            failed += [f"{what} is signed"] if sign(work) else []
            # By whoever signs without this script.
            subprocess.run(["minisign", "-S", "-s", work / "ours.key", "-m", dist / "SHA256SUMS"], check=True)
            failed += [f"{what} is taken"] if verified(dist, ours) else []
            shutil.rmtree(dist)
    print("\n".join(failed) or f"{len(FORGERIES) + 1} forgeries and {len(UNPROVED)} builds without proof are found")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
