"""The packages for OpenWrt: what they hold and what they say of themselves, out of the Makefiles below openwrt/.

For scripts/ipk and scripts/apk; a folder openwrt/NAME/ with a Makefile is one more package or more. A Makefile of
LuCI's kind (LUCI_TITLE) makes a package for all architectures of what lies below its folders root/ and htdocs/, with the
translations of po/.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lmo import lmo, translations
from packing import PRODUCTS, ROOT, File, binary_of, gz, version

RECIPES = ROOT / "openwrt"
FEED = PRODUCTS / "feed"
MODES = {"BIN": 0o755, "DATA": 0o644, "CONF": 0o600}
# What one architecture's name stands for on another's feed.
EVERYWHERE = ("all", "noarch")

# opkg and apk compare names, so that a binary that fits several architectures needs a package for each.
ARCHITECTURES = {
    "mips-unknown-linux-musl": ("mips_24kc", "mips_4kec"),
    "mipsel-unknown-linux-musl": ("mipsel_24kc", "mipsel_24kc_24kf", "mipsel_74kc"),
    "armv7-unknown-linux-musleabihf": (
        "arm_cortex-a5_vfpv4",
        "arm_cortex-a7_neon-vfpv4",
        "arm_cortex-a7_vfpv4",
        "arm_cortex-a8_vfpv3",
        "arm_cortex-a9_neon",
        "arm_cortex-a9_vfpv3-d16",
        "arm_cortex-a15_neon-vfpv4",
    ),
    "aarch64-unknown-linux-musl": (
        "aarch64_cortex-a53",
        "aarch64_cortex-a72",
        "aarch64_cortex-a76",
        "aarch64_generic",
    ),
    "x86_64-unknown-linux-musl": ("x86_64",),
    "armv5te-unknown-linux-musleabi": ("arm_arm926ej-s", "arm_xscale"),
    "arm-unknown-linux-musleabihf": ("arm_arm1176jzf-s_vfp",),
    "armv7-unknown-linux-musleabi": ("arm_cortex-a7", "arm_cortex-a9"),
    "i586-unknown-linux-musl": ("i386_pentium-mmx", "i386_pentium4"),
    "riscv64gc-unknown-linux-musl": ("riscv64_generic", "riscv64_riscv64"),
}

# opkg ends well with half a package where there is no room. What jffs2 and ubifs hold is compressed.
ROOM = """#!/bin/sh
[ -z "$IPKG_INSTROOT" ] || exit 0
needed=@PLAIN@
if grep -qE ' /overlay (jffs2|ubifs) ' /proc/mounts; then needed=@PACKED@; fi
free=$(df -k / 2>/dev/null | awk 'END { if ($(NF - 2) ~ /^[0-9]+$/) print $(NF - 2) }')
[ "${free:-$needed}" -ge "$needed" ] && exit 0
echo "@NAME@ needs $needed KB, and $free KB are free: @OUTCOME@" >&2
"""


@dataclass(frozen=True)
class Package:
    """One package, for any architecture."""

    name: str
    number: str
    title: str
    description: str
    section: str
    url: str
    maintainer: str
    license: str
    users: str
    depends: tuple[str, ...]
    provides: tuple[str, ...]
    conflicts: tuple[str, ...]
    recommends: tuple[str, ...]
    conffiles: tuple[str, ...]
    # A script of its own, or nothing.
    preinst: str
    # Among packages that provide the same, for apk.
    priority: int
    is_for_all: bool
    payload: Callable[[str], list[File]]

    def files(self, triple: str) -> list[File]:
        """What is put onto the router, sorted."""
        return sorted(self.payload(triple), key=lambda file: file.path)

    def room(self, triple: str, refused: bool) -> bytes:
        """A script for before the installation: is there room? `refused`: its answer counts."""
        files = self.files(triple)
        plain = sum(-(-len(file.content) // 1024) for file in files)
        packed = sum(-(-len(gz(file.content)) // 1024) for file in files)
        script = ROOM.replace("@NAME@", self.name).replace("@PLAIN@", str(plain)).replace("@PACKED@", str(packed))
        if refused:
            return (script.replace("@OUTCOME@", "nothing was installed") + "exit 1\n").encode()
        return script.replace("@OUTCOME@", "the installation will most likely fail").encode()

    def before(self, triple: str) -> bytes:
        """opkg's preinst: only where there is room, what the recipe wants done first."""
        room = self.room(triple, True).decode()
        if not self.preinst:
            return room.encode()
        start = "#!/bin/sh\n"
        return f"{start}(\n{room.removeprefix(start)}) || exit 1\n{self.preinst.removeprefix(start)}".encode()


def packages(names: list[str]) -> list[Package]:
    """The packages of these names, in their order, and after them those for all architectures."""
    found = {package.name: package for path in sorted(RECIPES.glob("*/Makefile")) for package in _recipe(path)}
    wanted = [found[name] for name in names] + [package for package in found.values() if package.is_for_all]
    # Two that exclude each other: it is enough that one of them says so.
    return [
        replace(one, conflicts=tuple(other.name for other in found.values() if _exclude(one, other))) for one in wanted
    ]


def _exclude(one: Package, other: Package) -> bool:
    return one.name in other.conflicts or other.name in one.conflicts


def _recipe(path: Path) -> list[Package]:
    text = re.sub(r"\\\n\s*", " ", path.read_text("utf-8"))
    if "LUCI_TITLE" in text:
        return [_luci(path.parent, text)]
    blocks = dict(re.findall(r"^define (\S+)\n(.*?)^endef$", text, re.MULTILINE | re.DOTALL))
    names = re.findall(r"^\$\(eval \$\(call BuildPackage,(.*)\)\)$", text, re.MULTILINE)
    return [_package(path.parent, text, blocks, name) for name in names]


def _package(folder: Path, text: str, blocks: dict[str, str], name: str) -> Package:
    def block(part: str) -> str:
        """A block, or that of which it is said to be a copy."""
        copied = re.search(rf"^Package/{name}/{part}=\$\(Package/(\S+)/{part}\)$", text, re.MULTILINE)
        return blocks[f"Package/{copied.group(1) if copied else name}/{part}"]

    fields = _settings(re.sub(r"^ *\$\(call (\S+)\)$", lambda found: blocks[found.group(1)], blocks[f"Package/{name}"], flags=re.MULTILINE))
    common = _settings(text)
    places = re.findall(r"^\t\$\(INSTALL_(BIN|DATA|CONF)\) (\S+) \$\(1\)/(\S+)$", block("install"), re.MULTILINE)

    def payload(triple: str) -> list[File]:
        """The files that the recipe installs; what cargo has made is the binary."""
        return [
            File(place, (folder / source).read_bytes() if source.startswith("./") else binary_of(triple, name), MODES[kind])
            for kind, source, place in places
        ]

    return Package(
        name=name,
        number=f"{version()}-r{common['PKG_RELEASE']}",
        title=fields["TITLE"],
        description=" ".join(block("description").split()),
        section=fields["SECTION"],
        url=fields["URL"],
        maintainer=common["PKG_MAINTAINER"],
        license=common["PKG_LICENSE"],
        users=fields["USERID"],
        # The binary is static.
        depends=(),
        provides=tuple(fields.get("PROVIDES", "").split()),
        conflicts=tuple(fields.get("CONFLICTS", "").split()),
        recommends=tuple(fields.get("RECOMMENDS", "").split()),
        conffiles=tuple(block("conffiles").split()),
        preinst=block("preinst").replace("$$", "$"),
        priority=100 if "DEFAULT_VARIANT" in fields else 0,
        is_for_all=False,
        payload=payload,
    )


def _luci(folder: Path, text: str) -> Package:
    fields = _settings(text)

    def payload(_triple: str) -> list[File]:
        """The tree as it lies there; a file that can be run stays one. Translations are small enough to come along."""
        texts = [
            File(f"usr/lib/lua/luci/i18n/{folder.name.removeprefix('luci-app-')}.{language}.lmo", lmo(po))
            for language, po in translations(folder).items()
        ]
        return texts + [
            File(f"{place}{path.relative_to(folder / source)}", path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
            for source, place in (("root", ""), ("htdocs", "www/"))
            for path in sorted((folder / source).rglob("*"))
            if path.is_file()
        ]

    return Package(
        name=folder.name,
        number=f"{version()}-r1",
        title=fields["LUCI_TITLE"],
        description=fields.get("LUCI_DESCRIPTION", fields["LUCI_TITLE"]),
        section="luci",
        url=fields.get("LUCI_URL", ""),
        maintainer=fields["PKG_MAINTAINER"],
        license=fields["PKG_LICENSE"],
        users="",
        depends=tuple(word.lstrip("+") for word in fields.get("LUCI_DEPENDS", "").split()),
        provides=(),
        conflicts=(),
        recommends=(),
        conffiles=(),
        preinst="",
        priority=0,
        is_for_all=True,
        payload=payload,
    )


def _settings(text: str) -> dict[str, str]:
    """KEY:=VALUE lines; what comes later counts."""
    return dict(re.findall(r"^ *([A-Z_]+):=(.*)$", text, re.MULTILINE))


def emptied(folder: Path, ending: str) -> Path:
    """A feed's folder without the packages of an earlier time."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"*.{ending}"):
        old.unlink()
    return folder
