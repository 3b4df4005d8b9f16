"""The service on a router that is a folder: what it is asked, and what can be seen of it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from router import Router

from score import Failed, equal

INIT = "/etc/init.d/mtg"
WAIT_SECS = 30


class Service:
    """mtg, as its owner sees it."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def ask(self, command: str, code: int = 0) -> str:
        """Run the init script; what it prints."""
        return self.router.run(f"{INIT} {command}", code)

    def pid(self) -> int:
        """The process that procd has started."""
        return int(self.router.read("/tmp/procd/mtg/mtg.pid") or 0)

    def parameters(self) -> list[str]:
        """What procd was told of the instance."""
        return self.router.read("/tmp/procd/mtg/mtg.spec").splitlines()

    def rule(self) -> dict[str, str]:
        """The firewall's rule, as the firewall gets it; empty if nobody may come in."""
        lines = self.router.read("/tmp/procd/mtg/data").splitlines()
        return dict(line.removeprefix("firewall//").split("=", 1) for line in lines if line.startswith("firewall//") and line != "firewall//=")

    def open_port(self) -> str:
        """The port that the firewall lets in, empty if none."""
        return self.rule().get("dest_port", "")

    def conf(self) -> str:
        """The configuration."""
        return self.router.read("/etc/mtg.conf")

    def write_conf(self, text: str) -> None:
        """As an editor does that keeps owner and mode."""
        (self.router.root / "etc/mtg.conf").write_text(text, "utf-8")

    def set_zone(self, zone: str) -> None:
        """As `uci set mtg.main.zone` does."""
        config = self.router.root / "etc/config/mtg"
        config.write_text(re.sub(r"option zone '.*'", f"option zone '{zone}'", config.read_text("ascii")), "ascii")

    def secret(self) -> str:
        """The one secret of the configuration."""
        found = re.findall(r"^secret = (\S+)$", self.conf(), re.MULTILINE)
        equal(len(found), 1, "secrets")
        return found[0]

    def wait_for_log(self, line: str) -> None:
        """Of the latest start; what the front answers may follow."""
        wait_for(f"{line!r} in the log", lambda: line in self.router.read("/tmp/log").rpartition("connection limit")[2])


def wait_for(what: str, holds: Callable[[], object]) -> None:
    """Fail if it does not come."""
    deadline = time.monotonic() + WAIT_SECS
    while not holds():
        if time.monotonic() > deadline:
            raise Failed(f"waited in vain for {what}")
        time.sleep(0.05)


def answers(port: int) -> bool:
    """Whether something listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def is_gone(process: int) -> bool:
    """Whether a process has ended."""
    return not Path(f"/proc/{process}").exists()
