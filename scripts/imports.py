"""Says which imports lead nowhere: to no program of ours, to nothing that Python has or scripts/python-env has installed.

A program that only compiles is not known to start: what it imports may have been left out of a commit.
Usage: imports.py PROGRAM..., all of them, with the Python of scripts/python-env.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

# scripts/sbom has an environment of its own.
ELSEWHERE = {"cyclonedx"}


def imported(program: Path) -> Iterator[str]:
    """The outermost names of all modules, wherever in the program they are asked for."""
    for node in ast.walk(ast.parse(program.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def main(programs: list[Path]) -> int:
    """Print what leads nowhere; return the exit code."""
    ours = {program.stem for program in programs} | {program.parent.name for program in programs}
    faults = [
        f"FAIL {program} imports {name}, which is nowhere"
        for program in programs
        for name in sorted(set(imported(program)) - ours - ELSEWHERE)
        if name not in sys.stdlib_module_names and importlib.util.find_spec(name) is None
    ]
    print("\n".join(faults) or f"{len(programs)} programs find what they import")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
