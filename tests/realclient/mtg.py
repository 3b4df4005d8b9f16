"""The program under test as a child process: its config file, its start, its output, its end."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from score import Failed

ROOT = Path(__file__).resolve().parents[2]
LISTEN_SECS = 15
STOP_SECS = 15


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line that all tests of this folder share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--mtg", type=Path, default=ROOT / "target/release/mtg", help="the binary under test")
    parser.add_argument("--work", type=Path, default=ROOT / "target/realclient", help="folder for configs and logs")
    return parser


class Mtg:
    """One running mtg; leaving the `with` block ends it whatever happened."""

    def __init__(self, binary: Path, work: Path, address: tuple[str, int]) -> None:
        self._binary = binary
        self._work = work
        self._address = address
        self._process: subprocess.Popen[bytes] | None = None
        work.mkdir(parents=True, exist_ok=True)

    def run(self, settings: list[tuple[str, str]]) -> Mtg:
        """`mtg run CONFIG`, with `bind-to` added to the settings."""
        return self._start(["run", str(self._write(settings))])

    def run_file(self, config: Path) -> Mtg:
        """`mtg run CONFIG` with a file as it is; it has to say the address that was given here."""
        return self._start(["run", str(config)])

    def reload(self, settings: list[tuple[str, str]]) -> None:
        """Other settings, and SIGHUP."""
        self._write(settings)
        self.alive()
        os.kill(self.pid, signal.SIGHUP)

    def _write(self, settings: list[tuple[str, str]]) -> Path:
        host, port = self._address
        config, fresh = self._work / "mtg.conf", self._work / "fresh.conf"
        lines = [f"{key} = {value}" for key, value in [("bind-to", f"{host}:{port}"), *settings]]
        fresh.write_text("\n".join(lines) + "\n", "utf-8")
        return fresh.replace(config)

    def simple_run(self, secret_or_host: str, settings: list[tuple[str, str]]) -> Mtg:
        """`mtg simple-run BIND SECRET_OR_HOST --set KEY=VALUE …`."""
        host, port = self._address
        options = [text for key, value in settings for text in ("--set", f"{key}={value}")]
        return self._start(["simple-run", f"{host}:{port}", secret_or_host, *options])

    def _start(self, command: list[str]) -> Mtg:
        with open(self._work / "stdout", "wb") as stdout, open(self._work / "stderr", "wb") as stderr:
            self._process = subprocess.Popen(
                [self._binary, *command], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        try:
            self._wait_for_port()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + LISTEN_SECS
        while True:
            self.alive()
            try:
                socket.create_connection(self._address, timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise Failed(f"mtg does not listen after {LISTEN_SECS} s; {self.log_tail()}") from None
                time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The process id."""
        if self._process is None:
            raise Failed("mtg was not started")
        return self._process.pid

    def alive(self) -> None:
        """Fail if the process has ended."""
        if self._process is None or self._process.poll() is not None:
            code = self._process.returncode if self._process else None
            raise Failed(f"mtg ended with code {code}; {self.log_tail()}")

    def stdout(self) -> str:
        """What mtg has printed on stdout."""
        return (self._work / "stdout").read_text("utf-8", "replace")

    def log(self) -> str:
        """What mtg has logged."""
        return (self._work / "stderr").read_text("utf-8", "replace")

    def log_tail(self) -> str:
        """The last lines that mtg has logged."""
        lines = self.log().splitlines()
        return f"log: {' | '.join(lines[-5:]) or 'empty'}"

    def stop(self) -> None:
        """Ask mtg to end with SIGTERM; fail if that takes long or does not give exit code 0."""
        self.alive()
        assert self._process is not None
        self._process.terminate()
        self.ends(STOP_SECS)

    def ends(self, secs: float) -> None:
        """Wait for the end after a SIGTERM; fail if that takes longer or does not give exit code 0."""
        assert self._process is not None
        try:
            code = self._process.wait(secs)
        except subprocess.TimeoutExpired:
            raise Failed(f"mtg still runs {secs} s after SIGTERM; {self.log_tail()}") from None
        if code != 0:
            raise Failed(f"SIGTERM gave exit code {code}; {self.log_tail()}")

    def __enter__(self) -> Mtg:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_SECS)
