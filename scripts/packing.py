"""Archives that come out the same wherever and whenever they are made, and what goes into them.

For the programs beside it.
"""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCTS = ROOT / "target/appliance"


@dataclass(frozen=True)
class File:
    """One file of an archive."""

    path: str
    content: bytes
    mode: int = 0o644


def tar(files: Iterable[File], epoch: int, prefix: str = "", with_folders: bool = False) -> bytes:
    """GNU format: opkg skips files with PAX headers and says that all is well."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        seen: set[Path] = set()
        if with_folders and prefix:
            archive.addfile(_member(prefix, 0, 0o755, epoch, tarfile.DIRTYPE))
        for file in files:
            for folder in reversed(Path(file.path).parents[:-1]):
                if with_folders and folder not in seen:
                    seen.add(folder)
                    archive.addfile(_member(f"{prefix}{folder}/", 0, 0o755, epoch, tarfile.DIRTYPE))
            member = _member(prefix + file.path, len(file.content), file.mode, epoch, tarfile.REGTYPE)
            archive.addfile(member, io.BytesIO(file.content))
    return packed.getvalue()


def _member(name: str, size: int, mode: int, epoch: int, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime, member.type = size, mode, epoch, kind
    return member


def cpio(folders: Iterable[str], files: Iterable[File], epoch: int) -> bytes:
    """What Linux takes as its initial file system; the format is that of Documentation/driver-api/early-userspace."""
    packed = bytearray()
    made = {*folders}
    for number, file in enumerate([*(File(folder, b"", 0o040755) for folder in sorted(made)), *files], 1):
        for folder in reversed(Path(file.path).parents[:-1]):
            if str(folder) not in made:
                made.add(str(folder))
                packed += _cpio_entry(0, File(str(folder), b"", 0o040755), epoch)
        packed += _cpio_entry(number, file, epoch)
    packed += _cpio_entry(0, File("TRAILER!!!", b"", 0), 0)
    return bytes(packed)


def _cpio_entry(inode: int, file: File, epoch: int) -> bytes:
    mode = file.mode if file.mode & ~0o7777 or not file.mode else file.mode | 0o100000
    name = file.path.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, epoch, len(file.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return header + bytes(-len(header) % 4) + file.content + bytes(-len(file.content) % 4)


def gz(content: bytes) -> bytes:
    """Without a date and a name."""
    return gzip.compress(content, 9, mtime=0)


@cache
def smallest_gz(content: bytes) -> bytes:
    """The same in seconds in place of milliseconds, and 4 % smaller."""
    python = subprocess.check_output(["scripts/python-env", "scripts/build-requirements.txt"], cwd=ROOT, text=True)
    code = "import sys, zopfli.gzip; sys.stdout.buffer.write(zopfli.gzip.compress(sys.stdin.buffer.read()))"
    return subprocess.run([python.strip(), "-c", code], input=content, check=True, stdout=subprocess.PIPE).stdout


def binary_of(triple: str, name: str = "mtg") -> bytes:
    """The binary; ends the program if there is none."""
    path = PRODUCTS / triple / name
    if not path.exists():
        option = "--tls " * (name == "mtg-tls")
        sys.exit(f"no {name} for {triple}; make it with scripts/build {option}{triple}")
    return path.read_bytes()


def version() -> str:
    """The version in Cargo.toml."""
    return _told("cargo_version")


def source_date_epoch() -> int:
    """The date that everything packed carries."""
    return int(_told("source_date_epoch"))


def targets_named(words: list[str]) -> list[str]:
    """The triples that a command line means; ends the program if there is no such."""
    return _told("targets_named", *words).split()


def names_for(triple: str, wanted: list[str]) -> list[str]:
    """Those of the builds that there are for a triple."""
    return _told("names_for", triple, *wanted).split()


def _told(function: str, *arguments: str) -> str:
    """What a function of targets.bash prints."""
    command = ["bash", "-c", 'source scripts/targets.bash && "$@"', "bash", function, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.strip()


def wrote(path: Path, content: bytes) -> None:
    """Write a product and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{path.relative_to(ROOT)}: {len(content)} bytes")
