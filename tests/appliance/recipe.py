"""The recipes below openwrt/, as make reads them: the same packages come out as scripts/ipk and scripts/apk pack.

OpenWrt's own rules are stand-ins (standin/sdk): they set what the recipes use, and install.

Usage: recipe.py. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from command import run

from score import Failed, Score, equal

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "tests/appliance/standin/sdk"
sys.path.insert(1, str(ROOT / "scripts"))

import openwrt  # noqa: E402

BINARY = b"what cargo would have made"


def installed(recipe: Path, folder: Path) -> None:
    """What make installs, with what the packages say of themselves beside it."""
    (folder / "built/bin").mkdir(parents=True)
    (folder / "built/bin/mtg").write_bytes(BINARY)
    run(["make", "-s", "-C", recipe, f"TOPDIR={SDK}", f"DESTDIR={folder}", "install"])


def fits(package: openwrt.Package, folder: Path) -> None:
    """Both ways agree about a package."""
    root = folder / package.name
    found = {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in root.rglob("*")
        if path.is_file()
    }
    # luci.mk makes packages of their own of the translations.
    wanted = {file.path: (file.content, file.mode) for file in package.files("") if not file.path.endswith(".lmo")}
    equal(sorted(found), sorted(wanted), "files")
    for path, content_and_mode in wanted.items():
        equal(found[path], content_and_mode, f"content and mode of {path}")

    def said(part: str) -> str:
        return (folder / f"{package.name}.{part}").read_text("utf-8").strip()

    equal(said("TITLE"), package.title, "title")
    equal(tuple(said("conffiles").split()), package.conffiles, "files that are the owner's")
    equal(said("preinst"), package.preinst.strip(), "script before the installation")
    equal(said("PKGARCH") == "all", package.is_for_all, "for all architectures")
    # Here one says so for both.
    equal(set(said("CONFLICTS").split()) <= set(package.conflicts), True, "conflicts")
    if not package.is_for_all:
        equal((said("version"), said("USERID")), (package.number, package.users), "version; user")
        # The SDK's binary needs the system's libraries, ours none.
        equal(said("PROVIDES").split(), list(package.provides), "provides")
    else:
        equal(tuple(word.lstrip("+") for word in said("DEPENDS").split()), package.depends, "depends")


def old_compiler_is_refused() -> None:
    """Of such a machine the one before everything else in the PATH is a stand-in."""
    with tempfile.TemporaryDirectory() as name:
        rustc = Path(name) / "rustc"
        rustc.write_text("#!/bin/sh\necho 'rustc 1.85.0 (4d91de4e4 2025-02-17)'\n", "ascii")
        rustc.chmod(0o755)
        environment = {**os.environ, "PATH": f"{name}:{os.environ['PATH']}", "MTG_TOOLCHAIN": "nightly"}
        done = run([ROOT / "scripts/build", "x86_64-unknown-linux-musl"], code=1, env=environment)
    wanted = "missing: the toolchain nightly, Rust 1.92 or newer, with its source; install it with: rustup toolchain install"
    if wanted not in done.stderr:
        raise Failed(f"it says {done.stderr[-300:]!r}")


def main() -> int:
    """Run all checks."""
    score = Score()
    openwrt.binary_of = lambda _triple, _name: BINARY
    packages = openwrt.packages(["mtg", "mtg-tls"])
    with tempfile.TemporaryDirectory() as place:
        for recipe in sorted(path.parent for path in (ROOT / "openwrt").glob("*/Makefile")):
            folder = Path(place) / recipe.name
            score.check(f"{recipe.name}: make takes the recipe", partial(installed, recipe, folder))
            for package in packages:
                if (folder / package.name).exists():
                    score.check(f"{package.name}: the same as scripts/ipk and scripts/apk pack", partial(fits, package, folder))
    score.check("scripts/build refuses a compiler that is too old, and says what it takes", old_compiler_is_refused)
    score.check("three packages", lambda: equal(len(packages), 3, "packages"))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
