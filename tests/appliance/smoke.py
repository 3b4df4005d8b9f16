"""One binary, possibly for another processor: its commands, and all visits with and without fast mode.

Usage: smoke.py --mtg RUNNER [--work FOLDER]. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from command import run
from visits import SECRET, Visits, settings

import loopback_only
import mtg
from loop_thread import LoopThread
from score import Score, equal

HOST = "127.0.0.1"
PROXY = (HOST, 3128)
# 203.0.113.0/24 is for documentation.
PUBLIC_IP = "203.0.113.5"


class Commands:
    """The commands that print something and end."""

    def __init__(self, binary: Path, work: Path) -> None:
        self._binary = binary
        self._work = work

    def all(self, score: Score) -> None:
        """Every command, each as one check."""
        score.check("generate-secret makes secrets that differ", self._generate_secret)
        score.check("access prints the link", self._access)
        score.check("run --check takes a good configuration", self._good_config)
        score.check("run --check refuses a bad one with code 78", self._bad_config)

    def _generate_secret(self) -> None:
        made = {self._run(["generate-secret", "-x", "example.com"]).strip() for _ in range(2)}
        equal(len(made), 2, "different secrets")
        for secret in made:
            equal((secret[:2], bytes.fromhex(secret[34:])), ("ee", b"example.com"), "mark and host of the secret")

    def _access(self) -> None:
        config = self._config("good.conf", [("bind-to", "127.0.0.1:443"), ("secret", SECRET.hex())])
        links = json.loads(self._run(["access", "-x", "-i", PUBLIC_IP, config]))
        wanted = f"tg://proxy?port=443&secret={SECRET.hex()}&server={PUBLIC_IP}"
        equal(links["ipv4"]["tg_url"], wanted, "link")

    def _good_config(self) -> None:
        config = self._config("good.conf", [("bind-to", "127.0.0.1:443"), ("secret", SECRET.hex())])
        self._run(["run", "--check", config])

    def _bad_config(self) -> None:
        self._run(["run", "--check", self._config("bad.conf", [("bind-to", "nowhere")])], code=78)

    def _config(self, name: str, lines: list[tuple[str, str]]) -> str:
        path = self._work / name
        path.write_text("".join(f"{key} = {value}\n" for key, value in lines), "utf-8")
        return str(path)

    def _run(self, arguments: Sequence[str], code: int = 0) -> str:
        return run([self._binary, *arguments], code).stdout


def serve(binary: Path, work: Path, fast_mode: str, score: Score, loop: LoopThread, visits: Visits) -> None:
    """All visits to one running proxy, and its end."""
    config = [*settings(HOST), ("fast-mode", fast_mode)]
    with mtg.Mtg(binary, work, PROXY).run(config) as proxy:
        visits.all(score, loop, f"fast-mode = {fast_mode}")
        proxy.stop()


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options = mtg.arguments("The commands of one binary, and clients through it.").parse_args()
    loopback_only.enter()
    work = options.work / "smoke"
    work.mkdir(parents=True, exist_ok=True)
    score = Score()
    Commands(options.mtg, work).all(score)
    with LoopThread() as loop:
        visits = Visits(PROXY)
        loop.run(visits.listen(HOST))
        for fast_mode in ("true", "false"):
            claim = f"fast-mode = {fast_mode}: mtg starts, serves and ends well"
            score.check(claim, partial(serve, options.mtg, work, fast_mode, score, loop, visits))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
