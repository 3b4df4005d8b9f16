"""A year's shape in hours, on a router with 64 MB: what comes with the days, not how long they are, is what wears out.

Phones sleep at night and come in the evening, and their providers give them other addresses, of which the old ones are
gone without a word. The log is rotated and the configuration loaded anew each day, and each day of a week has its trouble:
TROUBLES. A client who is refused, or loses a byte, outside of what a trouble may cost is a loss, and so is a hello that was
recorded on an earlier day and is answered again. The router is an emulated machine (soak_router.py) with memory = 8MB.
Usage: soak_year.py [--work FOLDER] [--days N] [--speed N]; with --speed 1440 a day takes a minute.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import faketls
import mtg
import soak_floods
from daemon import dnsmasq
from fixed_front import FixedFront
from pace import Pace
from score import Failed, Score
from set_up import set_up
from soak_clients import DC as DC_NUMBER
from soak_clients import Clients, Fault
from soak_dc import SoakDc
from soak_router import ADDRESS, HOST, Figures, Router, ip, router

# Made by scripts/vm.
TRIPLE = "mipsel-unknown-linux-musl"
PROXY, METRICS_PORT = (ADDRESS, 3128), 3129
FRONT_PORT = 8443
# Reached through HOST, so that it can vanish.
DC = ("198.18.1.3", 9000)
BYTES_PER_SEC = 1_500_000
DAY_SECS, HOURS = 86_400, 24
# Phones that are awake, by the hour.
AWAKE = (6, 4, 3, 2, 2, 3, 6, 12, 16, 18, 20, 22, 24, 24, 22, 24, 28, 34, 40, 48, 56, 60, 40, 16)
# The providers that the phones are divided among; each changes its addresses once a day, at another hour.
NETWORKS = 8
# Networks of strangers and of floods, which do not change.
STRANGERS, FLOODS = "198.19.255", "10"
GARBAGE, SLOW = 4, 3
SAMPLE_SECS = 2
# When hundreds begin to read nothing, the kernel of a small router saves at everybody's expense for some seconds, and TCP
# repeats what was lost after ever longer pauses: 25 s were once not enough for an upload that began in a flood.
PATIENCE, DC_PATIENCE_SECS = 3, 180
# Real time for those who lay in wait for the end of a trouble: their next attempt, a name server's, a breaker's pause.
RECOVERY_SECS = 5
# Who has just begun when a trouble begins counts as one of those who come in it.
HANDSHAKE_SECS = 3
# With memory = 8MB the process stays below it in every flood.
RSS_MAX_KIB = 12 << 10
GROWTH_KIB, GROWTH_SHARE = 1024, 0.10
# A life of mtg that is long enough to see growth in it, and its first days, in which tables reach their sizes.
LIFE_DAYS, WARM_UP_DAYS = 12, 5
# Above network.timeout.idle, which ends what nothing else has ended.
DRAIN_SECS = 330
# A week between two of the same trouble, and four between two power cuts, so that mtg lives for long.
WEEK, MONTH = 7, 28
LOG_MAX = 8 << 20
ALL = frozenset({"good", "rest", "garbage", "slow"})
CLIENTS, STRANGE = frozenset({"good", "rest"}), frozenset({"garbage", "slow"})


@dataclass
class Outage:
    """A trouble that may cost something: whom, and whether only those who come in it."""

    kinds: frozenset[str]
    spares_the_present: bool
    began: float
    until: float = math.inf

    def excuses(self, fault: Fault) -> bool:
        """Whether that fault is part of the trouble; changed bytes never are."""
        if "changed" in fault.what or fault.kind not in self.kinds:
            return False
        earliest = self.began - HANDSHAKE_SECS if self.spares_the_present else -math.inf
        return fault.ended >= self.began and earliest <= fault.began <= self.until


class Network:
    """The phones of one provider, and where they are now."""

    def __init__(self, clients: Callable[[Callable[[], str]], Clients], phones: list[int]) -> None:
        self.clients = clients(self.address)
        self.phones = phones
        self._prefix = ""
        self._tasks: list[asyncio.Task[None]] = []

    def address(self) -> str:
        """One of its addresses."""
        return f"{self._prefix}.{random.randint(1, 250)}"

    def move(self, prefix: str, phone: Callable[[int, Clients], Awaitable[None]]) -> None:
        """All addresses are gone, and nobody hears of it; the phones dial again from others."""
        former, self._prefix = self._prefix, prefix
        if former:
            ip(f"route del local {former}.0/24 dev lo")
        self.leave()
        ip(f"route add local {prefix}.0/24 dev lo")
        self._tasks = [asyncio.ensure_future(phone(number, self.clients)) for number in self.phones]

    def leave(self) -> None:
        """Nobody goes on."""
        for task in self._tasks:
            task.cancel()

    def alive(self) -> None:
        """Fail if a phone has ended by itself."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (fault := task.exception()):
                raise Failed(f"a phone: {fault!r}")


@dataclass
class Day:
    """What is told of a day."""

    number: int
    life: int
    troubles: list[str] = field(default_factory=list)
    served: int = 0
    strangers: int = 0
    cut: int = 0
    lost: int = 0
    replayed: int = 0
    fronted: int = 0
    figures: list[Figures] = field(default_factory=list)
    is_over: bool = False

    HEADER = (
        f"{'day':>4} {'served':>7}{'cut':>5}{'lost':>5}{'strangers':>10}{'MB':>6}{'rss KiB':>13}{'fds':>9}"
        f"{'free KiB':>10}{'hellos':>8}  troubles"
    )

    def row(self, megabytes: float) -> str:
        """Its line of the table; memory and descriptors at their least and most."""
        rss, fds = [each.rss_kib for each in self.figures], [each.descriptors for each in self.figures]
        free, hellos = min(each.free_kib for each in self.figures), self.figures[-1].hellos // 8
        return (
            f"{self.number:4} {self.served:7}{self.cut:5}{self.lost:5}{self.strangers:10}{megabytes:6.0f}"
            f"{min(rss):7}-{max(rss):5}{min(fds):5}-{max(fds):3}{free:10}{hellos:8}  {', '.join(self.troubles)}"
        )


class Year:
    """The days, one after the other."""

    def __init__(self, machine: Router, servers: Servers, options: Options) -> None:
        self._machine = machine
        self._servers = servers
        self._days_count = options.days
        self._hour_secs = DAY_SECS / options.speed / HOURS
        self._pace = Pace(BYTES_PER_SEC)
        strange = lambda: f"{STRANGERS}.{random.randint(1, 250)}"
        make = lambda source: Clients(PROXY, self._pace, source, strange, PATIENCE)
        self._networks = [Network(make, list(range(at, max(AWAKE), NETWORKS))) for at in range(NETWORKS)]
        self._prefixes = (f"198.19.{number % 250}" for number in range(1 << 30))
        self._stranger = make(strange)
        self._outages: list[Outage] = []
        self._hour = 0
        self._recorded: list[tuple[bytes, int]] = []
        self._is_block_list_on = False
        # Held while mtg is off.
        self._power = asyncio.Lock()
        self._life = 0
        self._counted: Counter[str] = Counter()
        self.days: list[Day] = []
        self.losses: Counter[str] = Counter()
        self._start: Figures | None = None

    async def play(self) -> None:
        """All days; prints a line for each."""
        await self._machine.do("start")
        await self._wait_until_served()
        self._start = await self._machine.figures()
        strangers = [asyncio.create_task(_forever(self._stranger.garbage)) for _ in range(GARBAGE)]
        strangers += [asyncio.create_task(_forever(self._stranger.slow)) for _ in range(SLOW)]
        for network in self._networks:
            network.move(next(self._prefixes), self._phone)
        print(Day.HEADER)
        try:
            for number in range(self._days_count):
                await self._play_day(number)
        finally:
            for network in self._networks:
                network.leave()
            for task in strangers:
                task.cancel()

    async def _wait_until_served(self) -> None:
        """The first client, once mtg listens."""
        deadline = time.monotonic() + RECOVERY_SECS * 6
        while True:
            with contextlib.suppress(OSError, EOFError, faketls.BadAnswer, TimeoutError):
                async with asyncio.timeout(RECOVERY_SECS):
                    await self._stranger.record()
                    return
            if time.monotonic() > deadline:
                raise Failed(f"mtg does not serve: {await self._machine.do('tail -n 3 /log/now')}")
            await asyncio.sleep(0.2)

    async def _play_day(self, number: int) -> None:
        day, began, taken = Day(number, self._life), time.monotonic(), self._pace.taken
        self.days.append(day)
        plan = dict(_plan(number, self._days_count))
        tasks: list[asyncio.Task[None]] = [asyncio.create_task(self._watch(day))]
        for hour in range(HOURS):
            self._hour = hour
            if hour % (HOURS // NETWORKS) == 0:
                self._networks[hour // (HOURS // NETWORKS)].move(next(self._prefixes), self._phone)
            for at, daily in ((0, self._rotate_log), (5, self._reload), (12, lambda day=day: self._replay(day))):
                if hour == at:
                    tasks.append(asyncio.create_task(daily()))
            if hour in plan:
                day.troubles.append(plan[hour].name)
                tasks.append(asyncio.create_task(plan[hour].play(self)))
            await asyncio.sleep(began + (hour + 1) * self._hour_secs - time.monotonic())
            for network in self._networks:
                network.alive()
            for task in tasks:
                if task.done():
                    task.result()
        # Not cancelled: half an answer of the machine would be left for the next who asks.
        day.is_over = True
        await asyncio.gather(*tasks)
        self._count(day)
        day.figures.append(await self._machine.figures())
        print(day.row((self._pace.taken - taken) / 1e6), flush=True)

    async def _watch(self, day: Day) -> None:
        while not day.is_over:
            async with self._power:
                day.figures.append(await self._machine.figures())
                day.life = self._life
            await asyncio.sleep(SAMPLE_SECS)

    def _count(self, day: Day) -> None:
        sets = [network.clients for network in self._networks] + [self._stranger]
        done: Counter[str] = sum((each.done for each in sets), Counter())
        day.served = sum(done[kind] - self._counted[kind] for kind in CLIENTS)
        day.strangers = sum(done[kind] - self._counted[kind] for kind in STRANGE)
        self._counted = done
        for each in sets:
            faults, each.faults = each.faults, []
            for fault in faults:
                if any(outage.excuses(fault) for outage in self._outages):
                    day.cut += 1
                else:
                    day.lost += 1
                    self.losses[str(fault)] += 1
                    print(f"     lost: {fault}, {fault.ended - fault.began:.0f} s", flush=True)
        # What is cut, clients notice themselves, or they have left without a word.
        broken = [fault for fault in self._servers.dc.faults if "was cut" not in fault]
        self._servers.dc.faults.clear()
        day.lost += len(broken)
        self.losses.update(broken)

    async def _phone(self, number: int, clients: Clients) -> None:
        while True:
            await asyncio.sleep(random.uniform(0, self._hour_secs))
            if number >= AWAKE[self._hour]:
                continue
            if number % 3:
                await clients.good()
            else:
                await clients.rest(random.randint(2, 6), self._hour_secs)

    # What each day has.

    async def _rotate_log(self) -> None:
        if (size := (await self._machine.figures()).log) > LOG_MAX:
            raise Failed(f"a day's log has {size} bytes")
        await self._machine.do("cp /log/now /log/old; : >/log/now")

    async def _reload(self) -> None:
        self._is_block_list_on = not self._is_block_list_on
        value = "true" if self._is_block_list_on else "false"
        await self._machine.do(f"sed -i 's/^\\(defense.blocklist.enabled\\).*/\\1 = {value}/' /etc/mtg.conf; kill -HUP $mtg")

    async def _replay(self, day: Day) -> None:
        """Hellos of earlier days come again, with the time of today."""
        for hello, then in random.sample(self._recorded, min(3, len(self._recorded))):
            again = faketls.restamped(hello, then, int(time.time()))
            try:
                async with asyncio.timeout(RECOVERY_SECS):
                    await self._stranger.visit(again)
                day.fronted += 1
            except faketls.BadAnswer:
                day.replayed += 1
            except (OSError, TimeoutError):
                pass
        with contextlib.suppress(OSError, EOFError, TimeoutError, faketls.BadAnswer):
            async with asyncio.timeout(RECOVERY_SECS):
                self._recorded.append((await self._stranger.record(), int(time.time())))

    # Troubles.

    async def hours(self, count: float) -> None:
        """So much of a day."""
        await asyncio.sleep(count * self._hour_secs)

    @contextlib.asynccontextmanager
    async def _outage(self, kinds: frozenset[str], spares_the_present: bool = False) -> AsyncIterator[None]:
        outage = Outage(kinds, spares_the_present, time.monotonic())
        self._outages.append(outage)
        yield
        outage.until = time.monotonic() + RECOVERY_SECS

    async def power_cut(self) -> None:
        """A boot without a clock battery: 1970, until the network has told the time."""
        async with self._outage(ALL):
            async with self._power:
                await self._machine.stop("KILL")
                await self._machine.set_clock(0)
                await self._machine.do("start")
                self._life += 1
            await self.hours(1)
            await self._machine.set_clock(time.time())

    async def no_names(self) -> None:
        """The name server is gone; nobody but strangers needs it."""
        async with self._outage(STRANGE):
            with self._servers.without_names():
                await self.hours(2)

    async def small_steps(self) -> None:
        """The clock goes wrong by less than what is tolerated, in both directions; that costs nothing."""
        for secs in (90, -90, 0):
            await self._machine.set_clock(time.time() + secs)
            await self.hours(1)

    async def wild_steps(self) -> None:
        """A day ahead and a day behind: who comes with our secret is refused, and those who are there go on."""
        async with self._outage(ALL, spares_the_present=True):
            for secs in (DAY_SECS, -DAY_SECS):
                await self._machine.set_clock(time.time() + secs)
                await self.hours(0.5)
            await self._machine.set_clock(time.time())

    async def dc_vanishes(self) -> None:
        """No packet comes back from the data centre."""
        async with self._outage(CLIENTS):
            with self._servers.without_dc():
                await self.hours(1)

    async def dc_refuses(self) -> None:
        """The data centre refuses connections."""
        async with self._outage(CLIENTS, spares_the_present=True):
            await self._servers.close_dc()
            await self.hours(1)
            await self._servers.open_dc()

    async def unread_log(self) -> None:
        """The log daemon hangs; that costs nothing."""
        await self._machine.do("kill -STOP $reader")
        await self.hours(8)
        await self._machine.do("kill -CONT $reader")

    async def flood(self) -> None:
        """Every flood at once, in the evening; that costs clients nothing, but other strangers may wait for a place."""
        shared = self._networks[0].address()
        async with self._outage(STRANGE):
            floods = soak_floods.start(PROXY, METRICS_PORT, Clients.SECRET, HOST, FLOODS, shared)
            try:
                await self.hours(4)
                if floods.poll() is not None:
                    raise Failed("the floods have ended early")
            finally:
                floods.kill()
                floods.wait()

    # The judgement.

    def nothing_was_lost(self) -> None:
        """Nobody was refused and no byte was lost, but for what troubles may cost."""
        for what, times in self.losses.most_common(10):
            print(f"     {times} x {what}")
        if sum(self.losses.values()):
            raise Failed(f"{sum(self.losses.values())} losses")
        if any(day.served < HOURS for day in self.days):
            raise Failed("there is a day on which hardly anybody was served")
        print(f"     {sum(day.served for day in self.days)} served, {sum(day.cut for day in self.days)} cut off by troubles")

    def nothing_was_replayed(self) -> None:
        """No hello of an earlier day was answered."""
        answered, fronted = (sum(getattr(day, name) for day in self.days) for name in ("replayed", "fronted"))
        if answered or not fronted:
            raise Failed(f"{answered} answers to recorded hellos, and {fronted} that were led to the front")

    def memory_is_bounded(self) -> None:
        """Its most, on all days."""
        most = max(each.rss_kib for day in self.days for each in day.figures)
        print(f"     {most} KiB at most")
        if most > RSS_MAX_KIB:
            raise Failed(f"{most} KiB, allowed are {RSS_MAX_KIB}")

    def memory_does_not_grow(self) -> None:
        """The least of a day, over each long life of mtg."""
        measured = 0
        for life in range(self._life + 1):
            days = [day for day in self.days if day.life == life][WARM_UP_DAYS:]
            if len(days) < LIFE_DAYS - WARM_UP_DAYS:
                continue
            measured += 1
            least, third = [min(each.rss_kib for each in day.figures) for day in days], len(days) // 3
            first, last = statistics.median(least[:third]), statistics.median(least[-third:])
            print(f"     days {days[0].number} to {days[-1].number}: {first:.0f} KiB first, {last:.0f} KiB last")
            if last - first > max(GROWTH_KIB, GROWTH_SHARE * first):
                raise Failed(f"grew from {first:.0f} to {last:.0f} KiB")
        if not measured:
            print("     NOT MEASURED: no life of mtg was long enough, which takes some 12 days")

    async def descriptors_return(self) -> None:
        """With everybody gone there are no more open files than at the start: what leaks on one day is still there now.

        But for strangers at the front who left without a word that arrived, as those of a flood do: nobody asks after them,
        for the front would not, and they stay for an hour. They have two each, and are told.
        """
        assert self._start is not None
        deadline = time.monotonic() + DRAIN_SECS
        while True:
            now, fronted = await self._machine.figures(), await self._machine.fronted()
            if (rest := now.descriptors - 2 * fronted) <= self._start.descriptors:
                break
            if time.monotonic() > deadline:
                raise Failed(f"{rest} open files after {DRAIN_SECS} s, {self._start.descriptors} at the start")
            await asyncio.sleep(1)
        print(f"     {self._start.descriptors} open files before, {rest} after, and {fronted} strangers at the front")

    async def ends(self) -> None:
        """SIGTERM, and exit code 0."""
        await self._machine.do("kill -TERM $mtg; wait $mtg")


@dataclass(frozen=True)
class Trouble:
    """What a day may bring, and from which hour on; no two of one day meet."""

    name: str
    hour: int
    play: Callable[[Year], Awaitable[None]]


TROUBLES = (
    Trouble("power cut, 1970", 2, Year.power_cut),
    Trouble("clock ±90 s", 6, Year.small_steps),
    Trouble("no DNS", 10, Year.no_names),
    Trouble("DC vanishes", 13, Year.dc_vanishes),
    Trouble("flood", 18, Year.flood),
    Trouble("log unread", 9, Year.unread_log),
    Trouble("clock ±1 day", 16, Year.wild_steps),
    Trouble("DC refuses", 22, Year.dc_refuses),
)


def _plan(day: int, days: int) -> Iterator[tuple[int, Trouble]]:
    """The troubles of a day; in less than a week all of them come, too."""
    week = min(WEEK, days)
    for number, trouble in enumerate(TROUBLES):
        is_due = number % week == day % week
        if number == 0 and day % MONTH >= WEEK:
            is_due = False
        if is_due:
            yield trouble.hour, trouble


async def _forever(client: Callable[[], Awaitable[None]]) -> None:
    while True:
        await client()


class Servers:
    """What mtg finds in its world: names, a front and a data centre."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._names = contextlib.ExitStack()
        self.dc = SoakDc(Pace(BYTES_PER_SEC), DC_PATIENCE_SECS)
        self._dc_server: asyncio.Server | None = None

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """All of them; the addresses of this namespace have to be there."""
        ip(f"route add local {DC[0]} dev lo")
        ip(f"route add local {STRANGERS}.0/24 dev lo")
        ip(f"route add local {FLOODS}.0.0.0/8 dev lo")
        await FixedFront().listen(HOST, FRONT_PORT)
        await self.open_dc()
        self._start_names()
        try:
            yield
        finally:
            self._names.close()

    def _start_names(self) -> None:
        self._names.enter_context(dnsmasq((HOST, 53), [(HOST, Clients.SECRET.host)], self._work))

    @contextlib.contextmanager
    def without_names(self) -> Iterator[None]:
        """The name server is off."""
        self._names.close()
        yield
        self._start_names()

    @contextlib.contextmanager
    def without_dc(self) -> Iterator[None]:
        """The data centre has no address."""
        ip(f"route del local {DC[0]} dev lo")
        yield
        ip(f"route add local {DC[0]} dev lo")

    async def close_dc(self) -> None:
        """The data centre takes nobody new."""
        assert self._dc_server is not None
        self._dc_server.close()

    async def open_dc(self) -> None:
        """It takes everybody."""
        self._dc_server = await self.dc.listen(*DC)


def settings() -> list[tuple[str, str]]:
    """What mtg runs with; names, so that it has something to ask for."""
    return [
        ("secret", Clients.SECRET.hex()),
        ("bind-to", f"0.0.0.0:{PROXY[1]}"),
        ("network.dns", f"udp://{HOST}"),
        ("domain-fronting.port", str(FRONT_PORT)),
        (f"dc-override.{DC_NUMBER}", f"{DC[0]}:{DC[1]}"),
        ("memory", "8MB"),
        # The emulated processor and all others here may have to wait for their turn.
        ("network.timeout.handshake", "60s"),
        ("network.timeout.tcp", "20s"),
        ("log-level", "debug"),
        # Written at once, and so kept over a power cut.
        ("network.reuse-port", "true"),
        ("defense.anti-replay.file", "/state/replays"),
        ("stats.prometheus.enabled", "true"),
        ("stats.prometheus.bind-to", f"0.0.0.0:{METRICS_PORT}"),
        *soak_floods.settings(HOST),
        ("defense.blocklist.enabled", "false"),
    ]


@dataclass(frozen=True)
class Options:
    """How long, and how fast."""

    days: int
    speed: float


async def run(work: Path, options: Options, score: Score) -> None:
    """Boot, play, judge."""
    config = "".join(f"{key} = {value}\n" for key, value in settings())
    servers = Servers(work)
    loop = asyncio.get_running_loop()

    def in_loop(attempt: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        async def run_it() -> None:
            await attempt()

        return lambda: asyncio.run_coroutine_threadsafe(run_it(), loop).result()

    async with router(TRIPLE, config, work) as machine, servers.up():
        year = Year(machine, servers, options)

        def judge() -> None:
            score.check(f"{options.days} days on {TRIPLE}", in_loop(year.play))
            score.check("no client was refused, no byte lost, strangers saw the front", year.nothing_was_lost)
            score.check("no hello of an earlier day was answered again", year.nothing_was_replayed)
            score.check("memory is bounded", year.memory_is_bounded)
            score.check("memory does not grow", year.memory_does_not_grow)
            score.check("descriptors return to the start", in_loop(year.descriptors_return))
            score.check("SIGTERM ends mtg well", in_loop(year.ends))

        await asyncio.to_thread(judge)


def main() -> int:
    """Play the year in a network namespace of its own."""
    parser = mtg.arguments("A year's shape on an emulated router with 64 MB.")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--speed", type=float, default=1440, help="how many times as fast as life")
    options, work, score = set_up(parser, "year")
    # It tells of each write to a phone that has left without a word.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    how = Options(options.days, options.speed)
    score.check("the router boots", lambda: asyncio.run(run(work, how, score)))
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
