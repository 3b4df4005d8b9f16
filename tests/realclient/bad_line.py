"""mtg on the lines that phones have: loss, a tunnel, a long sleep, another address, paths of 1280 bytes without ICMP.

Usage: bad_line.py [--mtg BINARY]. Needs cargo, iproute2 and /dev/net/tun; root, or user namespaces. All at once, each on a
line of its own (scripts/linking.py), so it takes about a minute. The long form is scripts/line.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mtg
from score import Failed, Score
from set_up import need

sys.path.insert(1, str(mtg.ROOT / "scripts"))

from linking import build_line, enter_user_namespace  # noqa: E402
from phones import LATER  # noqa: E402
from relays import Relay, Scene  # noqa: E402
from sleeping import MIDWAY, PENDING, Waking, sleep  # noqa: E402
from speeding import works  # noqa: E402

MOBILE = "delay=30 jitter=5 rate=20 queue=256"
BAD = "delay=50 jitter=10 rate=50 queue=1000 loss=2 reorder=1 late=15"
NARROW = f"{MOBILE} largest=1280"
BULK, BULK_SECS = 8 << 20, 60
# A busy machine is slow; whoever has to be switched off and on waits for minutes.
SOON_SECS = 6


class OnLines:
    """The checks, with the binary that they need."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary

    def all(self, score: Score) -> None:
        """Run every check, all at the same time."""
        checks = (
            ("8 MiB come through loss and reordering, byte for byte", self._loss),
            ("a tunnel of 20 s ends no connection, with a message on its way", lambda: self._tunnel(PENDING)),
            ("a tunnel of 20 s ends no connection, in a download", lambda: self._tunnel(MIDWAY)),
            ("a phone that has slept for longer than the limit has a new connection at once", self._long_sleep),
            ("a phone with a new address has a new connection at once", self._rebound),
            ("small segments get through where large packets vanish", self._narrow),
        )
        attempts = [_Attempt(attempt) for _, attempt in checks]
        for (claim, _), attempt in zip(checks, attempts):
            score.check(claim, attempt.finish)

    def _loss(self) -> None:
        with self._scene(BAD) as scene:
            phone = scene.connect()
            took = phone.download(BULK, 5, BULK_SECS)
            phone.close()
            passed = scene.line.tell()["down"]
            if took is None:
                raise Failed(f"no end after {BULK_SECS} s, {passed}")
            if passed["lost"] < 20:
                raise Failed(f"the line has hardly lost anything: {passed}")

    def _tunnel(self, state: str) -> None:
        waking = self._sleep(state, 20, {})
        if waking.seconds is None or not waking.is_same:
            raise Failed(f"the first answer after {waking} s (* is on a new connection)")

    def _long_sleep(self) -> None:
        waking = self._sleep(PENDING, 30, {"network.timeout.delivery": "12s"}, "reason=client_timeout ")
        if waking.seconds is None or waking.is_same or waking.seconds > SOON_SECS:
            raise Failed(f"the first answer after {waking} s (* is on a new connection)")

    def _rebound(self) -> None:
        with self._scene(MOBILE) as scene:
            phone = scene.connect()
            phone.ping()
            phone.ask(LATER, 500)
            scene.line.tell("rebind")
            time.sleep(2)
            began = time.monotonic()
            if phone.ping(SOON_SECS) is not None or not phone.is_over:
                raise Failed("the old connection is not known to be over")
            phone.close()
            phone = scene.connect()
            answered = phone.ping() is not None
            phone.close()
            took = time.monotonic() - began
            if not answered or took > SOON_SECS:
                raise Failed(f"an answer on a new connection: {answered}, after {took:.1f} s")
            if scene.line.tell()["down"]["forgotten"] == 0:
                raise Failed("nothing was sent to the old address")

    def _narrow(self) -> None:
        if works(Relay("mtg"), self._binary, NARROW, 4):
            raise Failed("large packets get through, so the line is not narrow")
        if not works(Relay("mtg", "", {"network.client-mss": 1200}), self._binary, NARROW, 20):
            raise Failed("nothing gets through")

    def _scene(self, words: str) -> Scene:
        return Scene(Relay("mtg"), self._binary, words)

    def _sleep(self, state: str, secs: int, settings: dict[str, str], logged: str = "") -> Waking:
        logs: list[str] = []
        waking = sleep(Relay("mtg", "", settings), self._binary, state, secs, MOBILE, logs.append)
        if logged not in logs[0]:
            raise Failed(f"the log does not say {logged!r}: {logs[0][-1000:]}")
        return waking


class _Attempt:
    """A check that runs in a thread of its own."""

    def __init__(self, attempt: Callable[[], object]) -> None:
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(attempt,))
        self._thread.start()

    def _run(self, attempt: Callable[[], object]) -> None:
        try:
            attempt()
        except BaseException as fault:  # Raised again by `finish`.
            self._fault = fault

    def finish(self) -> None:
        """Wait for its end, and fail if it has failed."""
        self._thread.join()
        if isinstance(self._fault, RuntimeError):
            raise Failed(str(self._fault))
        if self._fault:
            raise self._fault


def main() -> int:
    """Run all; the exit code says whether all is well."""
    options = mtg.arguments(__doc__.splitlines()[0]).parse_args()
    need("cargo ip")
    build_line()
    enter_user_namespace()
    score = Score()
    OnLines(options.mtg.resolve()).all(score)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
