"""Builds that kept their symbols, and what these are. For the programs beside it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from packing import ROOT


class Symbol(NamedTuple):
    """A function or an object; addresses and sizes in bytes."""

    address: int
    size: int
    name: str


def with_symbols(triple: str) -> Path:
    """Where cargo leaves what it has built last: the binary of scripts/build before its symbols are taken out."""
    return ROOT / "target/cross" / triple / "release/mtg"


def build_with_symbols(triple: str, options: list[str]) -> Path:
    """Have scripts/build make a binary; return the one with symbols, which else is the same."""
    kept = {**os.environ, "CARGO_PROFILE_RELEASE_STRIP": "none"}
    subprocess.run([ROOT / "scripts/build", *options, triple], env=kept, check=True)
    return with_symbols(triple)


def symbols(binary: Path) -> list[Symbol]:
    """Whatever has a size and a name, by address; of several with one address the last."""
    table = subprocess.run(["readelf", "--symbols", "--wide", binary], capture_output=True, text=True, check=True).stdout
    names = subprocess.run(["c++filt"], input=table, capture_output=True, text=True, check=True).stdout
    found = {}
    for line in names.splitlines():
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[3] in ("FUNC", "OBJECT") and fields[6] not in ("UND", "ABS"):
            address, size = int(fields[1], 16), int(fields[2], 0)
            found[address] = Symbol(address, size, re.sub(r"\[[0-9a-f]{8,16}\]", "", fields[7]))
    return [found[address] for address in sorted(found)]
