"""The score of a run: one line for each check, and a last line that counts them."""

from __future__ import annotations

from collections.abc import Callable


class Failed(Exception):
    """What a check found in place of what it claims."""


class Score:
    """Counts checks; a check fails by raising."""

    def __init__(self) -> None:
        self._passed = 0
        self._failed = 0

    def check(self, claim: str, attempt: Callable[[], object]) -> None:
        """Run one check and print its line."""
        try:
            attempt()
        except Failed as fault:
            self._fail(claim, str(fault))
        except Exception as fault:  # noqa: BLE001: whatever it is, it is no success, and the other checks go on
            self._fail(claim, f"{type(fault).__name__}: {fault}")
        else:
            self._passed += 1
            print(f"OK   {claim}", flush=True)

    def _fail(self, claim: str, fault: str) -> None:
        self._failed += 1
        print(f"FAIL {claim}: {fault}", flush=True)

    def finish(self) -> int:
        """Print the last line; return the exit code, which is 0 only if something passed and nothing failed."""
        print(f"{self._passed} passed, {self._failed} failed", flush=True)
        return 0 if self._passed and not self._failed else 1


def equal(found: object, wanted: object, what: str) -> None:
    """Fail if two values differ."""
    if found != wanted:
        raise Failed(f"{what}: {_short(found)}, wanted {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"
