"""How every check with real programs begins."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import loopback_only
from score import Score


def set_up(parser: argparse.ArgumentParser, folder: str) -> tuple[argparse.Namespace, Path, Score]:
    """The options with whole paths, an empty folder below `--work`, and a score; in a network namespace of its own.

    Only for a process with one thread.
    """
    options = parser.parse_args()
    options.mtg = options.mtg.resolve()
    # nginx and HAProxy live there, which a plain user's PATH lacks.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    loopback_only.enter()
    work: Path = (options.work / folder).resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return options, work, Score()
