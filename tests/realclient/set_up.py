"""How every check with real programs begins."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import loopback_only
from score import Score

# A command and the package that it is in, a line each.
TOOLS = Path(__file__).parents[2] / "scripts/test-tools.txt"


def need(programs: str) -> None:
    """End with the command that installs them if programs are missing."""
    # nginx and HAProxy live there, which a plain user's PATH lacks.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [program for program in programs.split() if not shutil.which(program)]
    if missing:
        packages = dict(line.split() for line in TOOLS.read_text("ascii").splitlines() if not line.startswith("#"))
        names = " ".join(packages.get(program, program) for program in missing)
        sys.exit(f"missing: {' '.join(missing)}; install with: apt-get install {names}")


def set_up(parser: argparse.ArgumentParser, folder: str, needs: str = "") -> tuple[argparse.Namespace, Path, Score]:
    """The options with whole paths, an empty folder below `--work`, and a score; in a network namespace of its own.

    Ends if programs are missing that the check `needs`. Only for a process with one thread.
    """
    options = parser.parse_args()
    options.mtg = options.mtg.resolve()
    need(needs)
    loopback_only.enter()
    work: Path = (options.work / folder).resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return options, work, Score()
