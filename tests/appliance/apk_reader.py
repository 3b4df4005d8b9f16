"""Reads packages and indexes of apk-tools 3, strictly, and without a line of what writes them.

Every block and every value must be where and as the format has it: padding zero, values inside, arrays sorted, one DATA
block for each file in the order of the listing, and no byte left over.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import borrowed  # noqa: F401

from score import Failed, equal

INFO = (
    "name version hashes description arch license origin maintainer url repo-commit build-time installed-size file-size"
    " provider-priority depends provides replaces install-if recommends layer tags"
).split()
NUMBERS = {"build-time", "installed-size", "file-size", "provider-priority", "layer"}
RELATIONS = {"depends", "provides", "replaces", "install-if", "recommends"}
SCRIPTS = "trigger pre-install post-install pre-deinstall post-deinstall pre-upgrade post-upgrade".split()
SIGNS = {1: "=", 2: "<", 4: ">", 3: "<=", 5: ">="}
UNLIKE = 23


@dataclass(frozen=True)
class Entry:
    """A file of a package."""

    path: str
    mode: int
    mtime: int
    content: bytes


class Values:
    """The values of one database."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        equal(payload[:4], bytes(4), "version of the database")
        self.root = self._word(4)

    def _word(self, at: int) -> int:
        if at % 4 or at + 4 > len(self._payload):
            raise Failed(f"a word at {at}")
        return int.from_bytes(self._payload[at : at + 4], "little")

    def number(self, value: int) -> int:
        """An integer, 0 if there is none."""
        kind, offset = value >> 28, value & 0xFFF_FFFF
        if kind in (0, 1):
            return offset
        if kind == 2:
            return self._word(offset)
        if kind == 3:
            return self._word(offset) | self._word(offset + 4) << 32
        raise Failed(f"{value:#x} is no number")

    def bytes(self, value: int) -> bytes:
        """A string of bytes, empty if there is none."""
        if value == 0:
            return b""
        kind, offset = value >> 28, value & 0xFFF_FFFF
        if kind not in (8, 9, 10):
            raise Failed(f"{value:#x} is no string")
        width = 1 << kind - 8
        if offset % width:
            raise Failed(f"a string at {offset}")
        size = int.from_bytes(self._payload[offset : offset + width], "little")
        found = self._payload[offset + width : offset + width + size]
        # The shortest form, and not beyond the end.
        if len(found) != size or size < {8: 1, 9: 1 << 8, 10: 1 << 16}[kind]:
            raise Failed(f"a string of {size} bytes at {offset}")
        return found

    def text(self, value: int) -> str:
        """The same in UTF-8."""
        return self.bytes(value).decode()

    def array(self, value: int) -> list[int]:
        """The elements. apk-tools' own writer marks some lists as objects."""
        return self._slots(value, 14 if value >> 28 == 14 else 13)

    def fields(self, value: int, names: list[str]) -> dict[str, int]:
        """The fields that are there."""
        slots = self._slots(value, 14)
        if len(slots) > len(names) or (slots and slots[-1] == 0):
            raise Failed(f"{len(slots)} fields of {len(names)}, the last one {slots[-1]:#x}")
        return {name: slot for name, slot in zip(names, slots) if slot}

    def _slots(self, value: int, kind: int) -> list[int]:
        if value == 0:
            return []
        offset = value & 0xFFF_FFFF
        equal(value >> 28, kind, "type of a list")
        count = self._word(offset)
        return [self._word(offset + 4 * place) for place in range(1, count)]


class Adb:
    """A file: one database, its signatures, and contents of files."""

    def __init__(self, packed: bytes, schema: bytes) -> None:
        equal(packed[:4], b"ADBd", "magic")
        inflate = zlib.decompressobj(-15)
        content = inflate.decompress(packed[4:]) + inflate.flush()
        equal((inflate.eof, inflate.unused_data), (True, b""), "end of the compressed stream, and what follows")
        equal(content[:8], b"ADB." + schema, "inner magic and schema")
        self.schema = schema
        blocks, at = [], 8
        while at < len(content):
            tag = int.from_bytes(content[at : at + 4], "little")
            kind, size = tag >> 30, tag & 0x3FFF_FFFF
            end = at + size + -size % 8
            if size < 4 or end > len(content) or any(content[at + size : end]):
                raise Failed(f"a block of {size} bytes at {at}")
            blocks.append((kind, content[at + 4 : at + size]))
            at = end
        kinds = [kind for kind, _ in blocks]
        equal((kinds[:1], kinds[1:] == sorted(kinds[1:]), 0 in kinds[1:]), ([0], True, False), "order of the blocks")
        self.payload = blocks[0][1]
        self.values = Values(self.payload)
        self.signatures = [payload for kind, payload in blocks if kind == 1]
        self.contents = [payload for kind, payload in blocks if kind == 2]

    def verify(self, public: Path) -> None:
        """There is one signature, and it is of the key."""
        (signature,) = self.signatures
        der = run_openssl("pkey", "-pubin", "-in", str(public), "-outform", "DER")
        identity = hashlib.sha512(der[-65:]).digest()[:16]
        equal(signature[:18], b"\0\4" + identity, "version, hash and key of the signature")
        with tempfile.NamedTemporaryFile() as file, tempfile.NamedTemporaryFile() as signed:
            file.write(signature[18:])
            file.flush()
            signed.write(self.schema + signature[:18] + hashlib.sha512(self.payload).digest())
            signed.flush()
            run_openssl("dgst", "-sha512", "-verify", str(public), "-signature", file.name, signed.name)

    def read_info(self, value: int) -> dict[str, object]:
        """What is said of a package."""
        found: dict[str, object] = {}
        for name, field in self.values.fields(value, INFO).items():
            if name in NUMBERS:
                found[name] = self.values.number(field)
            elif name in RELATIONS:
                found[name] = [self._relation(each) for each in self.values.array(field)]
                names = [word.lstrip("!").partition("=")[0] for word in found[name]]
                equal(names, sorted(set(names)), f"order of {name}")
            elif name == "hashes":
                found[name] = self.values.bytes(field)
            else:
                found[name] = self.values.text(field)
        return found

    def _relation(self, value: int) -> str:
        fields = self.values.fields(value, ["name", "version", "match"])
        name, number = self.values.text(fields["name"]), self.values.text(fields.get("version", 0))
        match = self.values.number(fields.get("match", 0)) or 1
        if match == UNLIKE:
            return f"!{name}"
        return f"{name}{SIGNS[match]}{number}" if number else name


def run_openssl(*arguments: str) -> bytes:
    """What it prints; it must succeed."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, check=False)
    if done.returncode:
        raise Failed(f"openssl {arguments[0]}: {done.stderr.decode()}{done.stdout.decode()}")
    return done.stdout


class Apk(Adb):
    """A package."""

    def __init__(self, packed: bytes) -> None:
        super().__init__(packed, b"pckg")
        fields = self.values.fields(self.values.root, ["info", "paths", "scripts", "triggers", "replaces-priority"])
        self.about = about = self.read_info(fields["info"])
        self.unique_id = about.pop("hashes")
        scripts = self.values.fields(fields.get("scripts", 0), SCRIPTS)
        self.scripts = {name: self.values.text(value) for name, value in scripts.items()}
        self.folders: list[str] = []
        self.files: list[Entry] = []
        self._contents = iter(self.contents)
        for number, folder in enumerate(self.values.array(fields.get("paths", 0)), 1):
            self._folder(number, folder)
        equal((self.folders, next(self._contents, None)), (sorted(self.folders), None), "folders; a further block")
        size = sum(len(file.content) for file in self.files)
        equal(about["installed-size"], max(size, 1), "installed size")

    def _folder(self, number: int, value: int) -> None:
        fields = self.values.fields(value, ["name", "acl", "files"])
        folder = self.values.text(fields.get("name", 0))
        equal(self._acl(fields["acl"]), 0o755, f"mode of {folder}")
        self.folders.append(folder)
        names = []
        for place, file in enumerate(self.values.array(fields.get("files", 0)), 1):
            parts = self.values.fields(file, ["name", "acl", "size", "mtime", "hash", "target"])
            names.append(self.values.text(parts["name"]))
            size, content = self.values.number(parts.get("size", 0)), b""
            if size:
                block = next(self._contents, b"")
                where = number.to_bytes(4, "little") + place.to_bytes(4, "little")
                equal(block[:8], where, f"numbers before the content of {names[-1]}")
                content = block[8:]
            digest = hashlib.sha256(content).digest()
            equal((len(content), self.values.bytes(parts["hash"])), (size, digest), f"size and hash of {names[-1]}")
            path = f"{folder}/{names[-1]}" if folder else names[-1]
            mtime = self.values.number(parts.get("mtime", 0))
            self.files.append(Entry(path, self._acl(parts["acl"]), mtime, content))
        equal(names, sorted(set(names), key=str.encode), f"order in {folder}")

    def _acl(self, value: int) -> int:
        fields = self.values.fields(value, ["mode", "user", "group", "xattrs"])
        owner = [self.values.text(fields[name]) for name in ("user", "group")]
        equal((owner, "xattrs" in fields), (["root", "root"], False), "owner; attributes")
        return self.values.number(fields["mode"])


class Index(Adb):
    """The list of a feed."""

    def __init__(self, packed: bytes) -> None:
        super().__init__(packed, b"indx")
        fields = self.values.fields(self.values.root, ["description", "packages", "spec"])
        self.packages = [self.read_info(value) for value in self.values.array(fields["packages"])]
        names = [(package["name"], package["version"]) for package in self.packages]
        equal(names, sorted(names), "order of the packages")
        equal(self.contents, [], "contents in an index")
