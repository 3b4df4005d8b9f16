"""A server from the distribution as a child process that listens on a port."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from score import Failed

START_SECS = 15
STOP_SECS = 15


class Daemon:
    """A running server with its output in a file."""

    def __init__(self, command: list[str | Path], log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def log(self) -> str:
        """What it has written."""
        return self._log.read_text("utf-8", "replace")

    def wait_for(self, address: tuple[str, int]) -> None:
        """Wait until it listens there."""
        deadline = time.monotonic() + START_SECS
        while True:
            try:
                socket.create_connection(address, timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"nothing listens on {address}: {self.log()[-300:]}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_SECS)


@contextmanager
def running(command: list[str | Path], address: tuple[str, int], log: Path) -> Iterator[Daemon]:
    """The server, up for the length of the `with` block."""
    daemon = Daemon(command, log)
    try:
        daemon.wait_for(address)
        yield daemon
    finally:
        daemon.stop()


@contextmanager
def dnsmasq(address: tuple[str, int], hosts: list[tuple[str, str]], work: Path, *options: str) -> Iterator[Daemon]:
    """A name server that knows the names (with their addresses before them) and asks nobody else."""
    file = work / "dnsmasq.hosts"
    file.write_text("".join(f"{ip} {name}\n" for ip, name in hosts), "ascii")
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]
    words += [f"--listen-address={address[0]}", f"--port={address[1]}", f"--addn-hosts={file}"]
    words += ["--user=", "--group=", f"--pid-file={work / 'dnsmasq.pid'}", *options]
    with running(words, address, work / "dnsmasq.log") as server:
        yield server


def eventually(what: str, seconds: float, attempt: Callable[[], object]) -> None:
    """Ask until the answer is true; fail with `what` if that takes longer."""
    deadline = time.monotonic() + seconds
    while not attempt():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)
