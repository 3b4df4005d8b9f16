"""A long load of mixed clients: no good client may lose a byte, and mtg may not grow or leak a file descriptor.

Of every 10 clients 6 are good, 2 send garbage and 2 are half-open or slow; each starts again when it is done.
With --everything all clients are good, the memory is that of a router, every flood of soak_floods.py goes on beside
them, and the configuration is loaded anew each second. (Connections of a balancer without a header are not among the
floods: with them a listener serves nobody else. tests/testsuite/floods.rs has them.)
Usage: soak.py [--mtg BINARY] [--work FOLDER] [--seconds N] [--clients N] [--everything].
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import loopback_only
import mtg
import soak_floods
from fixed_front import FixedFront
from pace import Pace
from score import Failed, Score
from set_up import set_up
from soak_clients import DC as DC_NUMBER
from soak_clients import SHARED, Clients
from soak_dc import SoakDc

PROXY = ("127.0.0.1", 3128)
FRONT = ("127.0.0.1", 8443)
DC = ("127.0.0.12", 9000)
FLOOD_SERVER = "127.0.0.13"
METRICS_PORT = 3129
BYTES_PER_SEC = 6_000_000
WARM_UP_SECS = 60
SAMPLE_SECS = 2
# A single reading depends on what the clients do at that moment.
SAMPLES_IN_A_READING = 5
# Rows of the table.
ROWS = 15
GROWTH_KIB = 2048
GROWTH_SHARE = 0.10
# What may stay when everybody has left, in the memory that was set: the threads' own buffers, the table of seen hellos,
# tables as large as they ever had to be, and what the allocator does not give back. Whether it grows is judged before.
KEPT_KIB = 8192
# For the floods to be there before the clients: with all of them in one moment, a client and half a hello from the same
# address cannot be told from each other.
BEFORE_SECS = 10
START_SECS = 2
# Above the longest round of any client.
LEAVE_SECS = 90
# Above the patience of the front, which mtg measures soon after the start.
DRAIN_SECS = 75


@dataclass(frozen=True)
class Sample:
    """One reading of the process."""

    secs: float
    rss_kib: int
    # Without what is mapped from the program's file.
    own_kib: int
    fds: int


def sample(pid: int, since: float) -> Sample:
    """Read memory and open files from /proc."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    rss, own = (
        int(next(line.split()[1] for line in lines if line.startswith(name))) for name in ("VmRSS:", "RssAnon:")
    )
    return Sample(time.monotonic() - since, rss, own, len(list(Path(f"/proc/{pid}/fd").iterdir())))


class Soak:
    """One run against a mtg that is up."""

    def __init__(self, proxy: mtg.Mtg, clients: Clients, dc: SoakDc, pace: Pace, options: argparse.Namespace) -> None:
        self._proxy = proxy
        self._clients = clients
        self._dc = dc
        self._pace = pace
        self._secs: int = options.seconds
        self._count: int = options.clients
        self._everything: bool = options.everything
        self._samples: list[Sample] = []
        self._start = Sample(0, 0, 0, 0)

    async def begin(self) -> None:
        """Take the figures of the start: after the first client, before all others."""
        await self._clients.good()
        await asyncio.sleep(1)
        self._start = sample(self._proxy.pid, time.monotonic())

    async def load(self) -> None:
        """Run all clients to the end and print the table."""
        began = time.monotonic()
        workers = [asyncio.create_task(self._repeat(self._kind(number), began)) for number in range(self._count)]
        try:
            await self._watch(began)
            async with asyncio.timeout(LEAVE_SECS):
                await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _kind(self, number: int) -> Callable[[], Awaitable[None]]:
        if self._everything:
            return self._clients.good
        kinds = (self._clients.good,) * 6 + (self._clients.garbage,) * 2 + (self._clients.slow,) * 2
        return kinds[number % len(kinds)]

    async def _repeat(self, client: Callable[[], Awaitable[None]], began: float) -> None:
        if self._everything:
            # Who gives way to a newcomer takes a moment to leave, and phones do not all wake up in the same one.
            await asyncio.sleep(random.uniform(0, START_SECS))
        while time.monotonic() < began + self._secs:
            await client()

    async def _watch(self, began: float) -> None:
        print(f"{'seconds':>8}{'rss KiB':>9}{'fds':>6}{'MB':>7}{'good':>8}{'garbage':>9}{'slow':>7}{'faults':>8}")
        every = max(1, self._secs // SAMPLE_SECS // ROWS)
        for number in range(1, self._secs // SAMPLE_SECS + 1):
            await asyncio.sleep(max(0.0, began + number * SAMPLE_SECS - time.monotonic()))
            self._proxy.alive()
            self._samples.append(sample(self._proxy.pid, began))
            if number % every == 0:
                self._print_row(self._samples[-1])

    def _print_row(self, now: Sample) -> None:
        done: Counter[str] = self._clients.done
        numbers = f"{now.secs:8.0f}{now.rss_kib:9}{now.fds:6}{self._pace.taken / 1e6:7.0f}"
        counts = f"{done['good']:8}{done['garbage']:9}{done['slow']:7}{len(self._clients.faults):8}"
        print(numbers + counts, flush=True)

    def nothing_was_lost(self) -> None:
        """Every good client got every byte, and every stranger the front's answer."""
        faults = [*map(str, self._clients.faults), *self._dc.faults]
        for fault, times in Counter(faults).most_common(10):
            print(f"     {times} x {fault}")
        if faults:
            raise Failed(f"{len(faults)} faults")
        for kind in ("good",) if self._everything else ("good", "garbage", "slow"):
            if self._clients.done[kind] < self._count // 10:
                raise Failed(f"only {self._clients.done[kind]} {kind} clients came through")

    def memory_is_steady(self) -> None:
        """The resident memory at the end is about that after the warm-up."""
        warm_up = min(WARM_UP_SECS, self._secs // 2)
        warm = [reading.rss_kib for reading in self._samples if reading.secs <= warm_up + 1]
        if len(self._samples) - len(warm) < SAMPLES_IN_A_READING:
            raise Failed(f"{len(self._samples)} readings are too few; give the soak more seconds")
        before = statistics.median(warm[-SAMPLES_IN_A_READING:])
        after = statistics.median(reading.rss_kib for reading in self._samples[-SAMPLES_IN_A_READING:])
        allowed = max(GROWTH_KIB, GROWTH_SHARE * before)
        print(f"     {before:.0f} KiB after {warm_up} s, {after:.0f} KiB at the end")
        if after - before > allowed:
            raise Failed(f"grew by {after - before:.0f} KiB, allowed are {allowed:.0f}")

    async def descriptors_return(self) -> None:
        """With all clients gone, mtg has no more open files than before."""
        deadline = time.monotonic() + DRAIN_SECS
        while (now := sample(self._proxy.pid, 0)).fds > self._start.fds:
            if time.monotonic() > deadline:
                open_files = f"{now.fds} open files {DRAIN_SECS} s after the last client"
                raise Failed(f"{open_files}, {self._start.fds} at the start")
            await asyncio.sleep(0.2)
        print(f"     {self._start.fds} open files before, {now.fds} after")

    def memory_returns(self) -> None:
        """With all clients gone, the memory is about that of the start."""
        before, now = self._start.own_kib, sample(self._proxy.pid, 0).own_kib
        most = max(reading.own_kib for reading in self._samples)
        print(f"     {before} KiB before, {most} KiB at most, {now} KiB after")
        if now - before > KEPT_KIB:
            raise Failed(f"{now - before} KiB more than at the start, allowed are {KEPT_KIB}")


def settings(everything: bool) -> list[tuple[str, str]]:
    """What mtg runs with."""
    common = [
        ("secret", Clients.SECRET.hex()),
        ("domain-fronting.host", FRONT[0]),
        ("domain-fronting.port", str(FRONT[1])),
        (f"dc-override.{DC_NUMBER}", f"{DC[0]}:{DC[1]}"),
    ]
    if not everything:
        return [*common, ("handshakes-per-ip", "0")]
    return [
        *common,
        *soak_floods.settings(FLOOD_SERVER),
        ("memory", "8MB"),
        ("stats.prometheus.enabled", "true"),
        ("stats.prometheus.bind-to", f"127.0.0.1:{METRICS_PORT}"),
    ]


async def reload_each_second(proxy: mtg.Mtg) -> None:
    """Turn the list on and off, and with it what waits for its server."""
    for number in itertools.count():
        proxy.reload([*settings(True), ("defense.blocklist.enabled", "false" if number % 2 else "true")])
        await asyncio.sleep(1)


async def soak(proxy: mtg.Mtg, options: argparse.Namespace, score: Score) -> None:
    """Start the servers around mtg, load it, and judge."""
    pace, front = Pace(BYTES_PER_SEC), FixedFront()
    dc = SoakDc(pace)
    clients = Clients(PROXY, pace)
    servers = [await front.listen(*FRONT), await dc.listen(*DC)]
    run = Soak(proxy, clients, dc, pace, options)
    loop = asyncio.get_running_loop()

    def in_loop(attempt: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
        return lambda: asyncio.run_coroutine_threadsafe(attempt(), loop).result()

    async def load() -> None:
        await run.begin()
        if not options.everything:
            return await run.load()
        floods = soak_floods.start(PROXY, METRICS_PORT, Clients.SECRET, FLOOD_SERVER, "127", SHARED)
        await asyncio.sleep(BEFORE_SECS)
        reloads = asyncio.create_task(reload_each_second(proxy))
        try:
            await run.load()
            if reloads.done() or floods.poll() is not None:
                raise Failed("the reloads or the floods have ended early")
        finally:
            reloads.cancel()
            floods.kill()
            floods.wait()

    def judge() -> None:
        score.check(f"{options.clients} clients for {options.seconds} s", in_loop(load))
        score.check("no good client lost a byte, strangers saw the front", run.nothing_was_lost)
        score.check("memory is steady", run.memory_is_steady)
        score.check("file descriptors return to the start", in_loop(run.descriptors_return))
        if options.everything:
            score.check("memory returns to the start", run.memory_returns)
        score.check("SIGTERM ends mtg well", proxy.stop)

    await asyncio.to_thread(judge)
    for server in servers:
        server.close()


def main() -> int:
    """Run the soak in a network namespace of its own."""
    parser = mtg.arguments("A long load of mixed clients on loopback.")
    parser.add_argument("--seconds", type=int, default=600, help="length of the load")
    parser.add_argument("--clients", type=int, default=200, help="how many at the same time")
    parser.add_argument("--everything", action="store_true", help="every flood and reloads beside the clients")
    options, work, score = set_up(parser, "soak")
    if not options.everything:
        loopback_only.use_few_ports()

    def run() -> None:
        with mtg.Mtg(options.mtg, work, PROXY).run(settings(options.everything)) as proxy:
            asyncio.run(soak(proxy, options, score))

    score.check("mtg starts and is stopped", run)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
