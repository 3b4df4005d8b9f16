"""The WEB proxy when things go wrong: lines that break, restarts, phones that stop reading, people with the link who mean
harm. With Chromium as the apps' hidden browser, apps without one, nginx and Caddy.

Usage: web_holds.py [--mtg BINARY] [--work FOLDER]. Needs chromium, nginx, caddy, curl, microsocks and openssl.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import faketls
import mtg
import obfuscated2
from daemon import running
from front_nginx import EC, HOST, make_certificates
from score import Failed, Score, equal
from set_up import set_up
from web_proxy import KEY, PAGE, PATH, PROXY, SECRET, SITE, WEB, pin, unread_bodies, visit, web_server

import frames  # noqa: E402: `web_proxy` makes the folder known
from adapter import Adapter, chromium_arguments  # noqa: E402
from web_app import ECHO, FLOOD, HOLD, App, Dc, Line, Refused, Site, masked  # noqa: E402

DC = ("127.0.0.12", 9000)
BROKEN = ("127.0.0.1", 7443)
SLOW = ("127.0.0.1", 7444)
SLOW_DOWN = ("127.0.0.1", 7445)
# A line, bytes a second: upwards 576 KiB take longer than mtg bears silence, downwards 1 MiB longer than apps do.
SLOW_PACE = 16 << 10
METRICS = "127.0.0.1:3129"
SOCKS = ("127.0.0.1", 1080)
SOCKS_SOURCE = "127.0.0.88"
VISITOR = "127.0.0.77"
CARRIERS = ("https", "websocket")
DD = b"\xdd" + KEY
MIB = 1 << 20
WORK_SECS = 120
CHECK_SECS = 150
ANSWER_SECS = 30
# Until a flood is at its height.
ATTACK_SECS = 2
GRACE_SECS = 120
POLL_SECS = 25
# Once an app's carrier has failed, it waits so long before it loads the page again; desktop doubles up to 30 s.
AGAIN_SECS = 2


class Phone:
    """An app in Chromium that loads the page anew when its carrier has failed, as apps do by themselves."""

    def __init__(self, work: Path, to: tuple[str, int], profile: str = "ios", port: int = 4000, path: str = PATH) -> None:
        self._server = f"{HOST}/{path}" if path else HOST
        self._arguments = chromium_arguments(HOST, f"{to[0]}:{to[1]}", pin(work))
        self._profile, self.address = profile, ("127.0.0.1", port)
        self.loads = 0
        self.faults: list[str] = []
        self.states: list[str] = []

    async def __aenter__(self) -> Phone:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self.adapter = adapter = Adapter(self._server, DD, self._profile, self.address)
            self.loads += 1
            try:
                await adapter.start(self._arguments)
                await adapter.gone.wait()
                self.faults.append(adapter.failed or "")
            finally:
                self.states += adapter.states
                await asyncio.shield(asyncio.ensure_future(adapter.stop()))
            await asyncio.sleep(AGAIN_SECS)

    async def connected(self) -> None:
        """Wait until there is a session."""
        async with asyncio.timeout(WORK_SECS):
            while not (hasattr(self, "adapter") and self.adapter.adopted.is_set() and not self.adapter.failed):
                await asyncio.sleep(0.05)

    async def stream(self, order: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, obfuscated2.Streams]:
        """One of the app's connections to the DC."""
        reader, writer = await asyncio.open_connection(*self.address, limit=MIB)
        frame, ciphers = obfuscated2.connect(2, obfuscated2.PADDED_INTERMEDIATE, KEY)
        writer.write(frame + ciphers.encrypt.update(order))
        return reader, writer, ciphers

    async def echoes(self, size: int, during: Callable[[int], Awaitable[None]] | None = None) -> None:
        """So many bytes to the DC and back, every one of them compared; `during` is told how many came back."""
        reader, writer, ciphers = await self.stream(ECHO)
        noise, block = random.Random(size), 256 << 10
        sent = hashlib.sha256()

        async def send() -> None:
            for _ in range(size // block):
                plain = noise.randbytes(block)
                sent.update(plain)
                writer.write(ciphers.encrypt.update(plain))
                await writer.drain()

        sending = asyncio.create_task(send())
        try:
            got, found = 0, hashlib.sha256()
            while got < size:
                data = await asyncio.wait_for(reader.read(block), WORK_SECS)
                if not data:
                    raise Failed(f"the end after {got} of {size} bytes, and the app says: {self.adapter.failed}")
                got += len(data)
                found.update(ciphers.decrypt.update(data))
                if during:
                    await during(got)
            await sending
        finally:
            sending.cancel()
            writer.transport.abort()
        equal(found.hexdigest(), sent.hexdigest(), "what came back")

    async def comes_back(self) -> None:
        """A stream works; tries until one does."""
        async with asyncio.timeout(WORK_SECS):
            while True:
                try:
                    return await asyncio.wait_for(self.echoes(256 << 10), 10)
                except (Failed, OSError, TimeoutError):
                    await asyncio.sleep(0.2)


class Sleeper:
    """A phone whose browser stands still for longer than sessions live, as in the background."""

    def __init__(self, work: Path) -> None:
        self._work, self._stack = work, AsyncExitStack()

    async def sleep(self) -> None:
        """It has a session, and its browser stops."""
        self._phone = await self._stack.enter_async_context(Phone(self._work, SITE, "android", 4001))
        await self._phone.comes_back()
        self._browser = _tree(self._phone.adapter.view._process.pid)
        for pid in self._browser:
            os.kill(pid, signal.SIGSTOP)
        self._since = time.monotonic()

    async def wake(self) -> None:
        """It goes on, finds its session gone, and gets another."""
        async with self._stack:
            await asyncio.sleep(max(0, self._since + GRACE_SECS + POLL_SECS + 7 - time.monotonic()))
            for pid in self._browser:
                # The browser may have ended some of its processes before.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            async with asyncio.timeout(WORK_SECS):
                while self._phone.loads < 2:
                    await asyncio.sleep(0.1)
            await self._phone.comes_back()


@asynccontextmanager
async def apps(site: Site, count: int, reads: bool = True):
    """Apps without a browser, each with its session."""
    made: list[App] = []
    tasks: list[asyncio.Task] = []
    try:
        for _ in range(count):
            app = await App(site, KEY).start()
            app.gives_credit = reads
            made.append(app)
            if reads:
                tasks.append(asyncio.create_task(app.pump_forever()))
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for app in made:
            app.leave()


class Holds:
    """The checks, with what they need."""

    def __init__(self, binary: Path, work: Path, score: Score, only: str) -> None:
        self._binary, self._work, self._score, self._only = binary, work, score, re.compile(only)
        self._dc = Dc(DC)
        self._site = Site(HOST, PATH, SITE, work / "ca.pem")
        self._line = Line(BROKEN, SITE)
        self._slow_line = Line(SLOW, SITE, SLOW_PACE)
        self._slow_down = Line(SLOW_DOWN, SITE, 0, SLOW_PACE)

    async def all(self) -> None:
        """Run every check."""
        await self._dc.listen()
        await self._line.listen()
        await self._slow_line.listen()
        await self._slow_down.listen()
        for carrier in CARRIERS:
            with web_server("nginx", self._work), self._mtg(carrier) as proxy:
                sleeper = Sleeper(self._work)
                if carrier == "https":
                    await self._check("https: a page falls asleep", sleeper.sleep, again=False)
                checks = [
                    ("64 MiB each way through Chromium, every byte compared", self._bulk),
                    ("200 streams in 20 sessions", self._many),
                    ("phones that stop reading hold up nobody", self._slow),
                    ("a stream that is not read holds up no other of its session", self._slow_stream),
                    ("a hostile client with the link is bounded, and others are served", lambda: self._hostile(proxy)),
                ]
                if carrier == "https":
                    checks.insert(1, ("lost polls and uploads lose no byte", self._lost))
                    checks.append(("a page that slept through its session's end comes back", sleeper.wake))
                else:
                    checks.insert(1, ("a WebSocket killed in the middle: the app comes back by itself", self._killed))
                for claim, check in checks:
                    await self._check(f"{carrier}: {claim}", check, again=check != sleeper.wake)
                    self._score.check(f"{carrier}: mtg still runs", proxy.alive)
                restarted = f"{carrier}: mtg is restarted and the app comes back by itself"
                await self._check(restarted, lambda: self._restart(proxy), again=False)
                await self._check(f"{carrier}: SIGTERM lets streams end, in time", lambda: self._drain(proxy), again=False)
            await self._check(f"{carrier}: 503 at the start: the app waits and gets in", lambda: self._full(carrier))
            for server in ("nginx", "caddy"):
                await self._check(f"{carrier}, {server}: the page at the root", lambda: self._root(carrier, server))
        await self._check("uploads over a slow line through Caddy end no session", self._slow_uploads)
        await self._check("a download over a slow line leaves the chats their turns", self._slow_downloads)
        await self._check("through mtg's own port the visitor's address is logged", self._one_port)
        await self._check("streams go through SOCKS5 where Telegram is reached so", self._socks)
        await self._check("who is not web.trusted sees nothing", self._trusted)

    async def _check(self, claim: str, attempt: Callable[[], Awaitable[None]], again: bool = True) -> None:
        """What fails is tried a second time, unless it changes what it needs itself, and told: a machine may have other work."""
        if not self._only.search(claim):
            return
        began = time.monotonic()
        fault = await self._fault(attempt)
        if fault and again:
            print(f"FLAKY {claim}: {fault}", flush=True)
            fault = await self._fault(attempt)

        def outcome() -> None:
            if fault:
                raise fault

        self._score.check(f"{claim} ({time.monotonic() - began:.0f} s)", outcome)

    @staticmethod
    async def _fault(attempt: Callable[[], Awaitable[None]]) -> Failed | None:
        try:
            async with asyncio.timeout(CHECK_SECS):
                await attempt()
        except Exception as found:  # noqa: BLE001: whatever it is, it is no success
            return Failed(f"{type(found).__name__}: {found}")
        return None

    def _settings(self, carrier: str, **more: str) -> list[tuple[str, str]]:
        settings = {
            "secret": SECRET, "domain-fronting.host": SITE[0], "domain-fronting.port": str(SITE[1]),
            "log-level": "debug", "web.bind-to": WEB, "web.path": PATH,
            "web.carrier": carrier, "dc-override.2": f"{DC[0]}:{DC[1]}", "memory": "16MB",
            "stats.prometheus.enabled": "true", "stats.prometheus.bind-to": METRICS,
        }  # fmt: skip
        settings |= {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
        return [(key, value) for key, value in settings.items() if value]

    def _mtg(self, carrier: str, **more: str) -> mtg.Mtg:
        self._running = self._settings(carrier, **more)
        return mtg.Mtg(self._binary, self._work / "mtg", PROXY).run(self._running)

    # Lines and restarts.

    async def _bulk(self) -> None:
        async with Phone(self._work, SITE) as phone:
            await phone.connected()
            began = time.monotonic()
            await phone.echoes(64 * MIB)
            print(f"     64 MiB to the DC and back in {time.monotonic() - began:.1f} s", flush=True)
            equal((phone.loads, phone.faults), (1, []), "pages loaded, faults")

    async def _lost(self) -> None:
        cuts = [4, 8, 12]

        async def cut(got: int) -> None:
            if cuts and got > cuts[0] * MIB:
                cuts.pop(0)
                await self._line.cut()

        async with Phone(self._work, BROKEN) as phone:
            await phone.connected()
            # Everything that is under way is lost: a parked poll, a batch to us, one from us.
            await self._line.cut()
            await phone.echoes(16 * MIB, cut)
            equal((cuts, phone.loads, phone.faults), ([], 1, []), "cuts, pages loaded, faults")
            if self._line.cuts < 8:
                raise Failed(f"{self._line.cuts} connections were cut")

    async def _killed(self) -> None:
        async with Phone(self._work, BROKEN) as phone:
            await phone.connected()

            async def cut(got: int) -> None:
                if got > MIB:
                    await self._line.cut()

            try:
                await phone.echoes(16 * MIB, cut)
                raise Failed("the stream survived its WebSocket")
            except (Failed, OSError) as fault:
                if "the end after" not in str(fault) and not isinstance(fault, OSError):
                    raise
            await phone.comes_back()
            if phone.loads < 2:
                raise Failed("the page was not loaded again")

    async def _restart(self, proxy: mtg.Mtg) -> None:
        async with Phone(self._work, SITE) as phone:
            await phone.connected()
            await phone.comes_back()
            await asyncio.get_running_loop().run_in_executor(None, proxy.stop)
            proxy.run(self._running)
            await phone.comes_back()
            if phone.loads < 2:
                raise Failed("the session outlived the process")

    async def _slow_uploads(self) -> None:
        """Caddy passes a body on at the pace of who sends it: a page's batches, and one batch of an app without a page."""
        size = 576 << 10
        with web_server("caddy", self._work), self._mtg("https", memory="128MB"):
            async with Phone(self._work, SLOW, "desktop") as phone, apps(Site(HOST, PATH, SLOW, self._work / "ca.pem"), 1) as (app,):
                await phone.connected()
                stream = await app.open(1, ECHO)
                part = bytes(frames.CHUNK)
                batch = [frames.frame(frames.DATA, 1, stream.ciphers.encrypt.update(part)) for _ in range(size // len(part))]
                stream.credit -= size

                async def whole() -> None:
                    await app.send(b"".join(batch))
                    while stream.received < size:
                        await app.wait()

                await asyncio.gather(phone.echoes(768 << 10), whole())
                equal((phone.loads, phone.faults), (1, []), "pages loaded, faults")

    async def _slow_downloads(self) -> None:
        """Apps give up a stream that is without an answer for 30 s."""
        site = Site(HOST, PATH, SLOW_DOWN, self._work / "ca.pem")
        with web_server("nginx", self._work), self._mtg("https", memory="128MB"):
            async with apps(site, 1) as (app,):
                await app.open(1, FLOOD)
                await app.open(2, ECHO)
                times = []
                for _ in range(3):
                    began = time.monotonic()
                    async with asyncio.timeout(ANSWER_SECS):
                        await app.echo(2)
                    times.append(time.monotonic() - began)
                print(f"     round trips beside a download at {SLOW_PACE >> 10} KiB/s, ms: {_figures(times)}", flush=True)

    async def _full(self, carrier: str) -> None:
        """As many sessions as there is memory for, all with a stream; then some leave."""
        with web_server("nginx", self._work), self._mtg(carrier, memory="512KB") as proxy:
            async with AsyncExitStack() as stack:
                others = []
                try:
                    while len(others) < 100:
                        others += await stack.enter_async_context(apps(self._site, 1))
                        await others[-1].open(1, ECHO)
                except Refused as refused:
                    equal(refused.status, 503, "status")
                if len(others) < 16:
                    raise Failed(f"{len(others)} sessions")
                async with Phone(self._work, SITE) as phone:
                    async with asyncio.timeout(WORK_SECS):
                        while "reconnecting" not in (phone.adapter.states if phone.loads else []):
                            await asyncio.sleep(0.1)
                    equal(phone.adapter.adopted.is_set(), False, "connected")
                    for app in others[:4]:
                        await _delete(app, self._site)
                    await phone.comes_back()
                    equal((phone.loads, phone.faults), (1, []), "pages loaded, faults")
            if _metric('mtg_web_refusals{reason="sessions"}') < 1:
                raise Failed("no refusal is counted")
            proxy.stop()

    async def _drain(self, proxy: mtg.Mtg) -> None:
        async with apps(self._site, 1) as (app,):
            await app.open(1, ECHO)
            await app.echo(1)
            os.kill(proxy.pid, signal.SIGTERM)
            # What is there goes on while the grace of 5 s lasts.
            began = time.monotonic()
            while time.monotonic() - began < 2:
                await app.echo(1)
            await app.send(frames.frame(frames.CLOSE, 1))
            app._gone.add(1)
            app.streams.pop(1)
            # What apps that left without a word have open counts until the grace is over.
            await asyncio.get_running_loop().run_in_executor(None, proxy.ends, 10)

    async def _root(self, carrier: str, server: str) -> None:
        site = Site(HOST, "", SITE, self._work / "ca.pem")
        with web_server(server, self._work, path=""), self._mtg(carrier, web__path="") as proxy:
            async with Phone(self._work, SITE, "desktop", path="") as phone:
                await phone.connected()
                await phone.echoes(MIB)
            async with apps(site, 1) as (app,):
                await app.open(1, ECHO)
                await app.echo(1)
            loop = asyncio.get_running_loop()

            async def at(path: str) -> str:
                return await loop.run_in_executor(None, lambda: visit(self._work, path=path))

            async def page_at(path: str, when: str) -> None:
                text = await at(path)
                if PAGE not in text or " 200" not in text.splitlines()[0]:
                    raise Failed(f"{when} the site's page is not at {path}: {text[:200]}")

            for path in ("/", "/?bridge=MHLEY5PmW1GWqJkSrlmJpvJUiLhBH_QKy6yKg8a0JPk"):
                await page_at(path, "with mtg")
            await loop.run_in_executor(None, lambda: unread_bodies(self._work, server))
            proxy.stop()
            # Nobody learns from an error that there would be something, nor from what there is not.
            await page_at("/?bridge=" + "A" * 43, "without mtg")
            texts = [await at(path) for path in ("/api/v1/nothing", "/nothing")]
            if " 404" not in texts[0].splitlines()[0] or texts[0] != texts[1]:
                raise Failed(f"without mtg the site has what it has not: {texts}")

    # Many and slow ones.

    async def _many(self) -> None:
        async with apps(self._site, 20) as all_apps:
            await asyncio.gather(*(app.open(n, ECHO) for app in all_apps for n in range(1, 11)))
            for _ in range(3):
                await asyncio.gather(*(app.echo(n, 5000) for app in all_apps for n in range(1, 11)))
            equal(_metric("mtg_web_streams") >= 200, True, "200 streams")
            equal(int(_metric("mtg_web_sessions")) >= 20, True, "sessions")

    async def _slow(self) -> None:
        async with apps(self._site, 1) as (app,):
            await app.open(1, ECHO)
            quiet = await _round_trips(app)
            async with apps(self._site, 12, reads=False) as slow:
                await asyncio.gather(*(one.open(n, FLOOD) for one in slow for n in range(1, 5)))
                await asyncio.sleep(2)
                beside = await _round_trips(app)
            print(f"     round trips, ms: alone {_figures(quiet)}, beside 48 stuck downloads {_figures(beside)}", flush=True)
            if statistics.median(beside) > 10 * statistics.median(quiet) + 0.1:
                raise Failed("the others wait")

    async def _slow_stream(self) -> None:
        async with apps(self._site, 1) as (app,):
            app.unread = {1}
            await app.open(1, FLOOD)
            await app.open(2, ECHO)
            async with asyncio.timeout(WORK_SECS):
                while app.streams[1].window > 0:
                    await app.wait()
            for _ in range(20):
                await app.echo(2)
            equal(app.streams[1].received, frames.WINDOW_START, "bytes of the stream that is not read")

    # Harm.

    async def _hostile(self, proxy: mtg.Mtg) -> None:
        quiet = await self._accepts()
        rows = [("nobody", quiet, _memory(proxy.pid), 0)]
        async with apps(self._site, 1) as (app,):
            await app.open(1, ECHO)
            for name in FLOODS:
                refused = _refusals()
                # In a process of its own: else it would hold up who measures.
                words = [sys.executable, __file__, "--attack", name, "--work", self._work]
                attackers = [subprocess.Popen(words, start_new_session=True) for _ in range(2)]
                try:
                    await asyncio.sleep(ATTACK_SECS)
                    times = await self._accepts()
                    for _ in range(5):
                        await app.echo(1)
                    equal([attacker.poll() for attacker in attackers], [None] * 2, "ends of the attackers")
                finally:
                    for attacker in attackers:
                        attacker.kill()
                        attacker.wait()
                rows.append((name, times, _memory(proxy.pid), _refusals() - refused))
        for name, times, memory, refused in rows:
            print(f"     {name:24} hello answered in ms: {_figures(times)}  peak {memory} KiB  refused {refused:.0f}", flush=True)
        proxy.alive()
        for name, times, memory, _ in rows:
            if memory > 24 << 10:
                raise Failed(f"{name}: {memory} KiB")
            # The machine has other work, too: what a quiet proxy takes on it counts as well.
            if statistics.median(times) > 0.1 + max(quiet):
                raise Failed(f"{name}: clients wait {_figures(times)} ms")

    async def _accepts(self) -> list[float]:
        """How long clients of the other door wait for the answer to their hellos."""
        times = []
        for _ in range(20):
            began = time.monotonic()
            client = await faketls.FakeTlsClient.connect(PROXY, faketls.Secret(KEY, HOST), 2)
            times.append(time.monotonic() - began)
            client.abort()
            await asyncio.sleep(0.05)
        return times

    # Set-ups.

    async def _one_port(self) -> None:
        with web_server("nginx", self._work, with_proxy_header=True), self._mtg("https", domain_fronting__proxy_protocol="true") as proxy:
            async with apps(Site(HOST, PATH, PROXY, self._work / "ca.pem", VISITOR), 1) as (app,):
                await app.open(1, ECHO)
                await app.echo(1)
                await app.send(frames.frame(frames.CLOSE, 1))
            async with asyncio.timeout(20):
                while not re.search(rf"ip={VISITOR} dc=2 ", proxy.log()):
                    await asyncio.sleep(0.1)
            proxy.stop()

    async def _socks(self) -> None:
        command = ["microsocks", "-i", SOCKS[0], "-p", str(SOCKS[1]), "-b", SOCKS_SOURCE]
        with (
            running(command, SOCKS, self._work / "microsocks.log"),
            web_server("nginx", self._work),
            self._mtg("https", network__proxies=f"socks5://{SOCKS[0]}:{SOCKS[1]}") as proxy,
        ):
            async with apps(self._site, 1) as (app,):
                await app.open(1, ECHO)
                await app.echo(1, 300_000)
            equal(self._dc.peers[-1], SOCKS_SOURCE, "who came to the DC")
            proxy.stop()

    async def _trusted(self) -> None:
        here, friend, stranger = "10.213.7.1", "10.213.7.2", "10.213.7.3"
        for address in (here, friend, stranger):
            subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        with self._mtg("https", web__bind_to=f"{here}:8081", web__trusted=friend) as proxy:
            request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
            for source, wanted in ((friend, b"HTTP/1.1 404"), (stranger, b"")):
                with socket.create_connection((here, 8081), 10, source_address=(source, 0)) as visitor:
                    visitor.settimeout(10)
                    visitor.sendall(request)
                    try:
                        found = visitor.recv(12)
                    except ConnectionResetError:
                        found = b""
                    equal(found, wanted, f"what {source} sees")
            proxy.stop()
        lone = self._work / "untrusted.conf"
        lone.write_text(f"secret = {SECRET}\nbind-to = 127.0.0.1:3443\nweb.bind-to = {here}:8081\n")
        done = subprocess.run([self._binary, "run", "--check", lone], capture_output=True, text=True, timeout=30)
        equal((done.returncode, "web.trusted" in done.stderr), (78, True), f"a public address without it: {done.stderr}")


async def attack(work: Path, name: str) -> None:
    """The same flood again and again, twice at a time, with a new session when one is ended."""
    site = Site(HOST, PATH, SITE, work / "ca.pem")

    async def one() -> None:
        while True:
            try:
                async with apps(site, 1, reads=False) as (app,):
                    await FLOODS[name](app)
            except (Refused, OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.02)

    await asyncio.gather(one(), one())


async def _opens(app: App) -> None:
    number = 1
    while True:
        await _batch(app, b"".join(frames.frame(frames.OPEN, number + n) for n in range(4096)))
        number += 4096


async def _opens_and_listens(app: App) -> None:
    taking = asyncio.create_task(_take_all(app))
    try:
        await _opens(app)
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)


async def _take_all(app: App) -> None:
    while True:
        await (app._message() if app.carrier == "websocket" else app._poll())


async def _windows(app: App) -> None:
    await app.open(1, ECHO)
    batch = frames.window(1, 0xFFFF_FFFF) * 4096
    while True:
        await _batch(app, batch)


async def _bytes(app: App) -> None:
    """Frames of one byte, for a DC that does not take them."""
    number = 0
    while True:
        number += 1
        stream = await app.open(number, HOLD)
        while stream.credit > 4096:
            await _batch(app, frames.frame(frames.DATA, number, b"x") * 4096)
            stream.credit -= 4096


async def _closes(app: App) -> None:
    number = 1
    while True:
        one = [frames.frame(kind, number + n) for n in range(2048) for kind in (frames.OPEN, frames.CLOSE)]
        await _batch(app, b"".join(one))
        number += 2048


async def _oversized(app: App) -> None:
    await app.open(1, HOLD)
    if app.carrier == "websocket":
        app.down.writer.write(masked(0x82, bytes(3 * MIB)))
        await app.down.writer.drain()
        await app._message()
    else:
        await _batch(app, frames.frame(frames.DATA, 1, bytes(MIB + 1)))


async def _sessions(app: App) -> None:
    """One after the other, and none is used."""


async def _batch(app: App, batch: bytes) -> None:
    async with asyncio.timeout(10):
        await app.send(batch)


FLOODS = {
    "streams, unheard": _opens,
    "streams, heard": _opens_and_listens,
    "streams that close": _closes,
    "windows": _windows,
    "bytes in frames": _bytes,
    "oversized frames": _oversized,
    "sessions": _sessions,
}


async def _delete(app: App, site: Site) -> None:
    status, _, _ = await app.up.ask(f"DELETE {site.base}api/v1/session", app.bearer)
    equal(status, 204, "the end of a session")


async def _round_trips(app: App) -> list[float]:
    times = []
    for _ in range(20):
        began = time.monotonic()
        await app.echo(1)
        times.append(time.monotonic() - began)
    return times


def _figures(times: list[float]) -> str:
    return f"median {statistics.median(times) * 1e3:.1f}, most {max(times) * 1e3:.1f}"


def _memory(pid: int) -> int:
    """The most that a process had in memory so far, KiB."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1])


def _scrape() -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{METRICS}/metrics", timeout=10) as answer:
        return answer.read().decode()


def _metric(name: str) -> float:
    found = re.search(rf"(?m)^{re.escape(name)} ([\d.e+]+)$", _scrape())
    return float(found[1]) if found else 0


def _refusals() -> float:
    return sum(float(value) for value in re.findall(r"(?m)^mtg_web_refusals\{[^}]*\} ([\d.e+]+)$", _scrape()))


def _tree(pid: int) -> list[int]:
    """A process and all that come from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text("ascii").split()]
    return found


def main() -> int:
    """Run all checks in a network namespace of their own."""
    parser = mtg.arguments("The WEB proxy when things go wrong.")
    parser.add_argument("--only", default="", help="a pattern of the claims to check")
    parser.add_argument("--attack", choices=FLOODS, help=argparse.SUPPRESS)
    child = parser.parse_args()
    if child.attack:
        # Inside the namespace already.
        asyncio.run(attack(child.work, child.attack))
    options, work, score = set_up(parser, "web-holds", "caddy chromium curl ip microsocks nginx openssl")
    (work / "html").mkdir(parents=True)
    (work / "html/index.html").write_text(PAGE, "ascii")
    make_certificates(work, EC)
    asyncio.run(Holds(options.mtg, work, score, options.only).all())
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
