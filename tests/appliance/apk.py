"""The packages for apk: their format, their signed index, and their life on a router that is a folder.

Usage: apk.py FEED ARCHITECTURE, as root; the architecture is this machine's. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import sys
import tarfile
import zlib
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import ipk
from apk_reader import Apk, Index
from life import learns_of_page
from router import Router, be_alone
from service import INIT, Service, answers, is_gone, wait_for

import loopback_only
from score import Failed, Score, equal

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT / "scripts"))

from openwrt import Package
from packing import File

PORT = 8443
LISTS = {f"lib/apk/packages/@.{kind}": 0o644 for kind in ("list", "rusers", "conffiles", "conffiles_static")}
SCRIPTS = ["pre-install", "post-install", "pre-deinstall", "pre-upgrade", "post-upgrade"]
# What apk-tools 3.0.6 itself has made of the package `sample` below, with its `mkpkg`.
MADE_BY_APK_TOOLS = """
QURCZO1Wa2wUVRS+3W1puxIsUGuFQo7r2kd0d7a7tWWLbWwpj6bYNu1WTCqsszszu+POziwzs7SFtllCIf7wgQKVl6IRDYLWRmkiiCYm1SDRhFQS+WFC
I1UkAQMJGiM18dyZoaUNiX+JepOTO+dxv/O49547dQ31nmQkHh3IJcZI5pLx3BgvSYpbl7Scco/P43erFaQ4o53t0cDQPAqszIFGeVEHXQF+E6/2hBWu
B7piCrBaXPPAf8g8GGN1EDVgJckzR1ZYNRKzP9kYXNKsGIaPy8b8hAHoEeVNrCRytQUxXU9q1QwzQ8xkbpbEMO6DDWkgg6RzI6w7nJI5iTdlu1Fmx/nN
DDL+AlKWsZwQKjuOugWEpKndKdRlqoqi43cm0tUMkncW9Wet9XScp+v5RFLvgYvDo/V7J4vy99+8cXqfcsJVMlQ3wR3Ytfbwnn2Lu9s+6SDkRIdIcQ7f
hjMH+Rs4g42M42dekY3AnxSf1yM0Bi/K6Zo1NpKmvtYiD4eab8jV+pFtgwv9PSH947p4YO/G5Kqxy2eWnxn6qODiNSve9Cw/NLfncX2+5YdDTAf6YSKK
LIhRozZ7LX/Dlr9TyNuxnDTfc5YsG3mGTcapbMKSLZw67x6KJogSr8HJt+YdC17ddXn07axt91w6NLaut+P+9TsuT2Z8NTL0M1v1Ha6ncf1hM/NfYMU1
107Si+6AF9J0Vhcj8MqeyQd+ze/8dOBk87WC3zd07ctpk8aWjHx2YPipD9+Z/+JFirnGbmK2W5gR5OdNY0qipsPWHR8I0YV96UJyvV/2vHxh3beLi768
/npv9bM/NbXN55oozkELp8XCOYZ83jSOmtJ4VQP74CLmSuN9Y0u2rztS031m8t5+280f2O0w0n3wa/dZ1/tmnhMW1lwL6zeKZdWSSbKROBvlNbTLovtu
J+MDSN8gFWaae+LNNGvdgLw9pam0/jFLBpPeH9ULLzUl9pcVDWYP9dtODroL/1InEvXBo9+/sbTgYavW9AxQe3oGaQzduD4bsZiwKNP9P2j5Om7hnkI+
f+SLoRVH17SFlNGc3NdqXxW3PrO7FG3mI+UQ876cQ/siQnY2IH4TEpW34JxAsq4K6baRPDpzmP8RxD6NRFvmLzgHsS6jSOeRriA9jX4lpFGkWMZDD9L4
GC3m6AT3ZnC6GlubVocam9uDbS0tQSesh95e4LuxvXgdMs9zPFfjc4gCRFU+Ce6NK6EEGAW7jsT2QOlzgqD5elNhUdDKqCKpKhEmoaRkXVsOeoyXwYLw
LwdBdAgqz9e4SjkB3HFgwFfLcPwmRk5JEvQC2xWHkpXNDbAF0F2pq7R5FbjBVwb9wGzo9LoD6x9xMWWQVEVZh2ltX0kZZuJ0baHg1W6X6bDPCe4oj2KT
pWkVF99Ki49gr3ROnTwjRg0sU2iqN7usiwIiB6zKgwFOMwJRxqsjSXh7FBm6RAw9oeAFkMQ4L/WAwIqSE2qLfY5LtxcawzPK3NwSal/R1tgaxPhqwFk+
My7cEAxjy4wN6WPoqRZScoQ61DxabMYOef7Z3sF3JxVVB9p9a5yzzZ231Ml4VGYTfM10XZwOluNCUVVJJUNYkBC9nw6OF9iUpIeSmDQtheO9GQfq7op/
KliVVxOOyelIrTUUqaN1dVtdw8qa8n/3Npn9xRjBLLLz8zkk/W622U8o35pD0rRXXcEe4c0i4625xhtKgJjvcwaS+bSZPyJQkmBFucSxlJjvIdUz0++f
+ReBTkOW3nYnPQSECl6oqOT9bFUFu2yZP1BZ7vf7qwKPCVUVYX9FeWXYHwgsqyqv8lZUcj4+EGH94QjL8mFfOS4SvA7SaeHb7+jfkBh/FA5m9uPAzH55
HIzVu6eCx1Fo4dPaGOJqUzls9mUj79uOFW0spsH/wrtK+Dc=
"""
SAMPLE_EPOCH = 1_767_225_600


def scripts_apk() -> object:
    """The program that packs, as a module."""
    loader = SourceFileLoader("scripts_apk", str(ROOT / "scripts/apk"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def sample() -> Package:
    """A small package that has a bit of everything."""
    files = [
        File("etc/config/hello", b"config hello 'main'\n", 0o600),
        File("etc/empty", b""),
        File("usr/bin/hello", b"#!/bin/sh\necho hello\n" * 20, 0o755),
    ]
    return Package(
        name="hello-tls",
        number="1.2.3-r4",
        title="Says hello",
        description="Says hello, and says it to everybody who asks. " * 6 + "That is all.",
        section="net",
        url="https://hello.invalid/",
        maintainer="Nobody <nobody@hello.invalid>",
        license="MIT",
        users="hello:hello",
        depends=("zlib", "ca-bundle"),
        provides=("hello",),
        conflicts=("hello",),
        recommends=(),
        conffiles=("/etc/config/hello",),
        preinst="",
        priority=100,
        is_for_all=True,
        payload=lambda _triple: files,
    )


def is_as_apk_tools_make_it() -> None:
    """Ours and theirs say the same, to a reader that shares nothing with what wrote either."""
    ours = Apk(scripts_apk().packed(sample(), "", "noarch", SAMPLE_EPOCH)[0])
    theirs = Apk(base64.b64decode(MADE_BY_APK_TOOLS))
    for field in ("about", "folders", "files", "scripts"):
        equal(getattr(ours, field), getattr(theirs, field), field)


def is_reproducible() -> None:
    """The same bytes at any time, and another identity for another content."""
    first, again = (scripts_apk().packed(sample(), "", "noarch", SAMPLE_EPOCH)[0] for _ in range(2))
    other = scripts_apk().packed(sample(), "", "noarch", SAMPLE_EPOCH + 1)[0]
    equal((first == again, Apk(first).unique_id == Apk(other).unique_id), (True, False), "same bytes; same identity")


def reader_finds_faults() -> None:
    """Every changed byte of a database or of a content is noticed, so that what is read is what was written."""
    packed = scripts_apk().packed(sample(), "", "noarch", SAMPLE_EPOCH)[0]
    content = bytearray(zlib.decompress(packed[4:], -15))
    noticed = 0
    start = content.index(b"#!/bin/sh\necho hello")
    for at in range(start, start + 20):
        content[at] ^= 1
        try:
            Apk(b"ADBd" + zlib.compress(bytes(content), wbits=-15))
        except Failed:
            noticed += 1
        content[at] ^= 1
    equal(noticed, 20, "changes noticed")


def package_fits(path: Path) -> None:
    """Signature, files, modes, lists, scripts, and what it says of itself."""
    apk = Apk(path.read_bytes())
    apk.verify(path.parents[1] / "mtg.pem")
    name, architecture = apk.about["name"], path.parent.name
    equal(path.name, f"{name}-{apk.about['version']}.apk", "file name")
    if apk.about["arch"] == "noarch":
        wanted = {path.removeprefix("./"): mode for path, mode in ipk.LUCI_FILES.items()} | {f"lib/apk/packages/{name}.list": 0o644}
        equal(({file.path: file.mode for file in apk.files}, apk.about["depends"]), (wanted, ["luci-base", "mtg"]), "files; depends")
        return
    equal(apk.about["arch"], architecture, "architecture")
    equal(apk.about.get("provides", []), [f"mtg={apk.about['version']}"] if name == "mtg-tls" else [], "provides")
    wanted = {path.removeprefix("./"): mode for path, mode in ipk.FILES.items()}
    wanted |= {path.replace("@", str(name)): mode for path, mode in LISTS.items()}
    equal({file.path: file.mode for file in apk.files}, wanted, "files and modes")
    contents = {file.path: file.content.decode() for file in apk.files if file.path.startswith(("lib/", "etc/config"))}
    listed = "".join(f"/{path}\n" for path in sorted(wanted) if not path.endswith((".list", ".conffiles", "_static")))
    equal(contents[f"lib/apk/packages/{name}.list"], listed, "list")
    digest = hashlib.sha256(contents["etc/config/mtg"].encode()).hexdigest()
    equal(contents[f"lib/apk/packages/{name}.conffiles_static"], f"/etc/config/mtg {digest}\n", "hashes of conffiles")
    equal(list(apk.scripts), SCRIPTS, "scripts")
    for which, start in (("post-install", '[ "${IPKG'), ("post-upgrade", "export PKG_UPGRADE=1\n[ ")):
        text = apk.scripts[which]
        ends = text.endswith(f'export pkgname="{name}"\nadd_group_and_user\ndefault_postinst\n')
        equal((text.startswith(f"#!/bin/sh\n{start}"), ends), (True, True), f"start and end of {which}")


def same_as_for_opkg(path: Path) -> None:
    """Both kinds put the same bytes onto the router."""
    apk = Apk(path.read_bytes())
    (other,) = path.parent.glob(f"{apk.about['name']}_*.ipk")
    data = ipk.contents(other)
    equal({file.path: file.content for file in apk.files if not file.path.startswith("lib/apk/")}, data, "files")


def index_fits(folder: Path, public: Path) -> None:
    """It is signed with the key, and leads to every package of the folder."""
    index = Index((folder / "packages.adb").read_bytes())
    index.verify(public)
    files = sorted(path.name for path in folder.glob("*.apk"))
    equal([f"{package['name']}-{package['version']}.apk" for package in index.packages], files, "packages")
    for package, name in zip(index.packages, files, strict=True):
        content = (folder / name).read_bytes()
        apk = Apk(content)
        wanted = {**apk.about, "hashes": hashlib.sha256(apk.payload).digest(), "file-size": len(content)}
        equal(package, wanted, f"entry of {name}")


def key_archive_fits(feed: Path) -> None:
    """LuCI restores it as a backup, which puts the key where apk looks, and nothing else anywhere."""
    with tarfile.open(feed / "mtg-key.tar.gz") as archive:
        (member,) = archive
        found = archive.extractfile(member)
        equal((member.name, member.mode, member.uid), ("etc/apk/keys/mtg.pem", 0o644, 0), "member")
        equal(found.read() if found else None, (feed / "mtg.pem").read_bytes(), "key")


class Life:
    """From the installation to the removal."""

    def __init__(self, package: Path, work: Path) -> None:
        self._package = package
        self._router = Router(work)
        self.service = Service(self._router)

    def install(self) -> None:
        """One command and it serves."""
        printed = self._router.apk_add(self._package)
        if f"&secret={self.service.secret()}&server=" not in printed:
            raise Failed(f"no link: {printed}")
        wait_for("the port", lambda: answers(PORT))
        equal(self.service.open_port(), str(PORT), "port in the firewall")

    def upgrade(self) -> None:
        """Nobody has edited anything, so nothing is asked or left."""
        before = self.service.conf()
        self._router.apk_add(self._package)
        left = [str(path) for path in self._router.root.rglob("*.apk-new")]
        equal((left, self.service.conf()), ([], before), "what is left; configuration")
        self.service.ask("running")

    def page(self, package: Path) -> None:
        """As with opkg."""
        learns_of_page(self._router, lambda: self._router.apk_add(package))

    def remove(self) -> None:
        """No process, no open port."""
        process = self.service.pid()
        self._router.run("sh /lib/apk/packages/mtg.prerm")
        wait_for("the end", lambda: is_gone(process))
        equal(self.service.rule(), {}, "rule")

    def end(self) -> None:
        """Leave no process behind."""
        self._router.run(f"[ ! -x {INIT} ] || {INIT} stop || true")


def main(feed: str, architecture: str) -> int:
    """Run all checks."""
    be_alone()
    score = Score()
    score.check("ours says what apk-tools' own says", is_as_apk_tools_make_it)
    score.check("the same content is the same package", is_reproducible)
    score.check("a changed byte is noticed", reader_finds_faults)
    packages = sorted(Path(feed).glob("*/*.apk"))
    for path in packages:
        name = f"{path.name} for {path.parent.name}"
        score.check(f"{name}: files, lists and scripts", partial(package_fits, path))
        score.check(f"{name}: the same files as for opkg", partial(same_as_for_opkg, path))
    for folder in sorted({path.parent for path in packages}):
        claim = f"{folder.name}: the index is signed and leads to its packages"
        score.check(claim, partial(index_fits, folder, Path(feed) / "mtg.pem"))
    score.check("the key comes as a backup for LuCI, too", partial(key_archive_fits, Path(feed)))
    (own,) = (path for path in packages if path.parent.name == architecture and path.name.startswith("mtg-0"))
    loopback_only.enter()
    work = ROOT / "target/appliance/routers-apk"
    shutil.rmtree(work, ignore_errors=True)
    life = Life(own, work)
    score.check("an installation makes a secret, prints the link and serves", life.install)
    score.check("an upgrade of what nobody has edited asks and leaves nothing", life.upgrade)
    score.check("a removal leaves no process and no open port", life.remove)
    (page,) = (path for path in packages if path.parent.name == architecture and path.name.startswith("luci-app-mtg-"))
    score.check("the page for LuCI is there at once", lambda: life.page(page))
    life.end()
    return score.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
