"""A machine that is nothing but mtg, emulated: it boots, takes an address, and serves clients through a forwarded port.

Usage: vm.py TRIPLE; scripts/vm TRIPLE makes the machine. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from visits import Visits, settings

import loopback_only
from loop_thread import LoopThread
from machine import BOOT_SECS, boot
from mtg import ROOT
from score import Failed, Score

PROXY = ("127.0.0.1", 3128)
# What the emulated network calls this machine's loopback.
HOST = "10.0.2.2"
MEMORY_MB = 256


def start(triple: str, work: Path) -> subprocess.Popen[bytes]:
    """Boot the machine; its console goes to a file."""
    lines = [("bind-to", f"0.0.0.0:{PROXY[1]}"), *settings(HOST)]
    config = "".join(f"{key} = {value}\n" for key, value in lines)
    network = f"user,hostfwd=tcp:{PROXY[0]}:{PROXY[1]}-:{PROXY[1]}"
    return boot(triple, {"etc/mtg.conf": config}, work, MEMORY_MB, network)


def serves(triple: str, score: Score, loop: LoopThread, visits: Visits) -> None:
    """Boot, and all visits."""
    work = ROOT / "target/appliance/vm" / triple
    (work / "console").unlink(missing_ok=True)
    began = time.monotonic()
    machine = start(triple, work)
    try:
        _wait_for_listening(machine, work / "console")
        print(f"listening after {time.monotonic() - began:.0f} s")
        visits.all(score, loop, "in the machine")
    finally:
        machine.kill()
        machine.wait()


def _wait_for_listening(machine: subprocess.Popen[bytes], console: Path) -> None:
    deadline = time.monotonic() + BOOT_SECS
    while True:
        text = console.read_text("utf-8", "replace") if console.exists() else ""
        if "listening" in text:
            return
        if machine.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"it does not listen: {' | '.join(text.splitlines()[-8:])}")
        time.sleep(0.2)


def main(triple: str) -> int:
    """Run all checks in a network namespace of their own."""
    loopback_only.enter()
    score = Score()
    with LoopThread() as loop:
        visits = Visits(PROXY)
        loop.run(visits.listen("127.0.0.1"))
        score.check(f"{triple} boots and listens", partial(serves, triple, score, loop, visits))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
