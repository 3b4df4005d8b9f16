"""What a binary says about itself: for which processor, static, without floating-point instructions, without our paths.

Usage: elf.py BINARY TRIPLE. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import struct
import sys
from functools import partial
from pathlib import Path

import borrowed  # noqa: F401

from score import Failed, Score, equal

ROOT = Path(__file__).resolve().parents[2]
MACHINES = {"mips": 8, "mipsel": 8, "armv5te": 40, "arm": 40, "armv7": 40, "aarch64": 183, "x86_64": 62, "i586": 3}
MACHINES |= {"riscv64gc": 243}
BIG_ENDIAN = ("mips",)
PT_INTERP = 3
PT_GNU_STACK = 0x6474_E551
PF_X = 1
SOFT_FLOAT = 3


class Elf:
    """The parts of an ELF file that the checks read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        equal(content[:4], b"\x7fELF", "magic")
        self.is_64 = content[4] == 2
        self.is_big = content[5] == 2
        self._order = ">" if self.is_big else "<"
        (self.machine,) = self._read("H", 18)
        word = "Q" if self.is_64 else "I"
        _, self._programs, self._sections = self._read(f"3{word}", 24)
        self._tail = self._read("6H", 52 if self.is_64 else 40)

    def programs(self) -> dict[int, int]:
        """Type and flags of each program header."""
        size, count = self._tail[1:3]
        found = {}
        for at in range(self._programs, self._programs + size * count, size):
            kind = self._read("I", at)[0]
            found[kind] = self._read("I", at + (4 if self.is_64 else 24))[0]
        return found

    def sections(self) -> dict[str, bytes]:
        """The sections by their names."""
        size, count, names = self._tail[3:6]
        word = "Q" if self.is_64 else "I"
        headers = [self._read(f"2I4{word}", self._sections + number * size) for number in range(count)]
        texts = self._content[headers[names][4] :]
        found = {}
        for name, _, _, _, offset, length in headers:
            found[texts[name : texts.index(b"\0", name)].decode()] = self._content[offset : offset + length]
        return found

    def _read(self, layout: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + layout, self._content, at)


def is_for(elf: Elf, processor: str) -> None:
    """Processor and byte order."""
    equal((elf.machine, elf.is_big), (MACHINES[processor], processor in BIG_ENDIAN), "machine and big endian")


def is_static(elf: Elf) -> None:
    """No loader is asked for, and the stack is no code."""
    programs = elf.programs()
    if PT_INTERP in programs:
        raise Failed("it wants a loader")
    if programs.get(PT_GNU_STACK, PF_X) & PF_X:
        raise Failed("its stack is executable")


def is_stripped(elf: Elf) -> None:
    """Nothing but what runs."""
    extra = {".symtab", ".pdr", ".debug_info", ".comment"} & elf.sections().keys()
    equal(extra, set(), "sections for debuggers")


def is_soft_float(elf: Elf) -> None:
    """Routers' kernels kill a program at its first floating-point instruction."""
    flags = elf.sections().get(".MIPS.abiflags", b"")
    equal(flags[7:8], bytes([SOFT_FLOAT]), "floating-point ABI")


def has_no_paths(content: bytes) -> None:
    """Where it was built is nobody's business, and would make each build differ."""
    for path in (str(ROOT), str(Path.home())):
        if len(path) > 2 and path.encode() + b"/" in content:
            raise Failed(f"it contains {path}")


def main(binary: str, triple: str) -> int:
    """Run the checks; return the exit code."""
    content = Path(binary).read_bytes()
    elf = Elf(content)
    processor = triple.split("-")[0]
    score = Score()
    score.check(f"it is for {processor}", partial(is_for, elf, processor))
    score.check("it is static", partial(is_static, elf))
    score.check("it is stripped", partial(is_stripped, elf))
    score.check("no path of this machine is in it", partial(has_no_paths, content))
    if processor.startswith("mips"):
        score.check("it is soft float", partial(is_soft_float, elf))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
