"""A router with 64 MB for the soak: mtg in an emulated machine with a real kernel, a clock that can be set and a console.

It has no way out but a wire to this process' network namespace, whose end is HOST. scripts/vm makes kernel and files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from machine import BOOT_SECS, boot
from score import Failed

HOST, ADDRESS = "198.18.0.1", "198.18.0.2"
WIRE = "router0"
MEMORY_MB = 64
# The processor is emulated, and has a flood to look after.
ANSWER_SECS = 60
# How the kernel begins to say on the machine's console whom it has ended.
OUT_OF_MEMORY = "Out of memory"
# What ends the output of a command.
END = "== "
START = f"""#!/bin/busybox sh
ip addr add {ADDRESS}/24 dev eth0
ip link set eth0 up
ip route add default via {HOST}
ulimit -n 4096
mkdir /state /log
mkfifo /log/pipe
# Open at both ends, so that nobody is told of an end while the reader or mtg is away.
exec 4<>/log/pipe
start() {{ mtg run /etc/mtg.conf 2>/log/pipe 3>&- 4>&- & mtg=$!; }}
# The log is read as by a log daemon, and rotated by cutting it off.
cat /log/pipe >>/log/now 3>&- 4>&- &
reader=$!
figures() {{
    kill -0 $mtg && grep -E 'VmRSS|RssAnon' /proc/$mtg/status
    echo "Descriptors: $(ls /proc/$mtg/fd 2>/dev/null | wc -l)"
    grep MemAvailable /proc/meminfo
    echo "Hellos: $(wc -c </state/replays)"
    echo "Log: $(wc -c </log/now)"
}}
stty raw -echo </dev/ttyS1
exec 3<>/dev/ttyS1
echo "{END}0" >&3
while read -r line <&3; do
    eval "$line" >&3 2>&3
    echo "{END}$?" >&3
done
"""


@dataclass(frozen=True)
class Figures:
    """One reading of mtg and its machine."""

    rss_kib: int
    # Without what is mapped from the program's file.
    own_kib: int
    descriptors: int
    free_kib: int
    # Bytes of the file of seen hellos, and of the log.
    hellos: int
    log: int


class Router:
    """The machine, switched on."""

    def __init__(
        self,
        machine: subprocess.Popen[bytes],
        kernel_log: Path,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._machine = machine
        self._kernel_log = kernel_log
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()

    async def do(self, command: str) -> str:
        """Run a command in its shell; fail if that fails."""
        async with self._lock, asyncio.timeout(ANSWER_SECS):
            self._writer.write(f"{command}\n".encode())
            return await self.answer(command)

    async def answer(self, command: str) -> str:
        """What is printed until a command has ended."""
        lines = []
        while not (line := (await self._reader.readline()).decode("utf-8", "replace")).startswith(END):
            if not line:
                raise Failed("the machine is gone")
            lines.append(line)
        if line.removeprefix(END).strip() != "0":
            raise Failed(f"{command}: {''.join(lines)[-300:]}")
        return "".join(lines)

    async def figures(self) -> Figures:
        """Memory, descriptors and files; fails if mtg does not run."""
        words = [line.split() for line in (await self.do("figures")).splitlines()]
        found = {line[0].rstrip(":"): int(line[1]) for line in words}
        if "VmRSS" not in found:
            kernel = [line for line in self._kernel_log.read_text("utf-8", "replace").splitlines() if OUT_OF_MEMORY in line]
            raise Failed(f"mtg has ended: {kernel or await self.do('tail -n 3 /log/now')}")
        names = ("VmRSS", "RssAnon", "Descriptors", "MemAvailable", "Hellos", "Log")
        return Figures(*(found[name] for name in names))

    async def fronted(self) -> int:
        """Strangers that mtg has at the front."""
        told: int = json.loads(await self.do("mtg status --json /etc/mtg.conf"))["strangers"]
        return told

    async def set_clock(self, unix_secs: float) -> None:
        """Step it."""
        await self.do(f"date -s @{unix_secs:.0f} >/dev/null")

    async def stop(self, signal: str) -> None:
        """End mtg with a signal, whatever its code."""
        await self.do(f"kill -{signal} $mtg; wait $mtg; true")

    def off(self) -> None:
        """Pull the plug."""
        self._machine.kill()
        self._machine.wait()


@contextlib.asynccontextmanager
async def router(triple: str, config: str, work: Path) -> AsyncIterator[Router]:
    """The machine, booted, with mtg not yet started; off after the `with` block."""
    _wire()
    # A socket's path has to be short.
    folder = tempfile.TemporaryDirectory()
    console = Path(folder.name, "console")
    network = f"tap,ifname={WIRE},script=no,downscript=no"
    files = {"etc/mtg.conf": config, "etc/start": START}
    machine = boot(triple, files, work, MEMORY_MB, network, "-serial", f"unix:{console},server=on,wait=on")
    try:
        found = Router(machine, work / "console", *await _connect(machine, console))
        async with asyncio.timeout(BOOT_SECS):
            await found.answer("the boot")
        yield found
    finally:
        machine.kill()
        machine.wait()
        folder.cleanup()


async def _connect(machine: subprocess.Popen[bytes], console: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    deadline = time.monotonic() + BOOT_SECS
    while not console.exists():
        if machine.poll() is not None or time.monotonic() > deadline:
            raise Failed("the emulator does not start")
        await asyncio.sleep(0.05)
    return await asyncio.open_unix_connection(console)


def ip(words: str) -> None:
    """A change of this namespace's network."""
    subprocess.run(["ip", *words.split()], check=True)


def _wire() -> None:
    ip(f"tuntap add dev {WIRE} mode tap")
    ip(f"address add {HOST}/24 dev {WIRE}")
    ip(f"link set {WIRE} up")
