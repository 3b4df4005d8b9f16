"""Runs a command to its end and checks its exit code."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import borrowed  # noqa: F401

from score import Failed

PATIENCE_SECS = 120


def run(
    command: Sequence[str | Path], code: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What it printed, if it ended as it should."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_SECS,
        env=env,
        check=False,
    )
    if done.returncode != code:
        line = " ".join(map(str, command))
        raise Failed(f"{line}: exit code {done.returncode}, wanted {code}: {done.stderr.strip()} {done.stdout.strip()}")
    return done
