"""The emulated machines that scripts/vm has made, with files of a test's own in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mtg import ROOT

sys.path.insert(1, str(ROOT / "scripts"))

from packing import File, cpio, gz

# The name of qemu's processor, its words for the board, its network card, and what the kernel is told.
MACHINES = {
    "x86_64-unknown-linux-musl": ("x86_64", "-M q35 -cpu max", "virtio-net-pci", "console=ttyS0 random.trust_cpu=on"),
    # A real 32-bit kernel: qemu's user mode has this machine's system calls underneath.
    "mipsel-unknown-linux-musl": ("mipsel", "-M malta", "e1000", "console=ttyS0"),
}
BOOT_SECS = 240


def boot(
    triple: str, files: dict[str, str], work: Path, memory_mb: int, network: str, *words: str
) -> subprocess.Popen[bytes]:
    """Switch it on; its console goes to the file `console` in `work`."""
    parts = ROOT / "target/appliance/vm" / triple
    added = [File(path, content.encode()) for path, content in files.items()]
    # The kernel unpacks one archive after the other.
    (work / "initrd-with-files").write_bytes((parts / "initrd").read_bytes() + gz(cpio([], added, 0)))
    processor, board, card, kernel_line = MACHINES[triple]
    command = [
        *f"qemu-system-{processor} {board} -accel tcg -m {memory_mb} -nodefaults -no-user-config".split(),
        *f"-display none -no-reboot -kernel {parts}/vmlinuz -initrd {work}/initrd-with-files".split(),
        *("-append", f"{kernel_line} quiet panic=-1", "-serial", f"file:{work}/console"),
        *("-netdev", f"{network},id=net", "-device", f"{card},netdev=net,romfile="),
        *words,
    ]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)
