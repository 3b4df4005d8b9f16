"""A speed limit that many tasks share, so that a test loads the program and not the machine."""

from __future__ import annotations

import asyncio
import time

CHUNK = 16384


class Pace:
    """At most so many bytes a second in all; counts what it let through."""

    def __init__(self, bytes_per_sec: int) -> None:
        self._bytes_per_sec = bytes_per_sec
        self._free_at = time.monotonic()
        self.taken = 0

    async def take(self, count: int) -> None:
        """Wait for the turn of so many bytes."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + count / self._bytes_per_sec
        self.taken += count
        await asyncio.sleep(self._free_at - now)
