"""image/nftables/mtg.nft with the kernel's own nftables: it limits one address and nobody else, and cuts up hellos only.

Usage: nftables.py [--work FOLDER]. Needs nft, ip and root.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import mtg
from score import Failed, equal
from set_up import set_up

RULES = mtg.ROOT / "image/nftables/mtg.nft"
SERVER, CLIENTS = "10.77.0.1", ("10.77.0.2", "10.77.0.3")
CLIENT_NAMESPACE = "mtg-nftables-test"
ATTEMPTS = 30
PORT = 443
# A process in the clients' namespace: as many connections as asked for at once, and how many came about.
KNOCK = """
import socket, sys, time
sockets = []
for _ in range(int(sys.argv[2])):
    knocking = socket.socket(); knocking.setblocking(False); knocking.bind((sys.argv[1], 0))
    knocking.connect_ex((sys.argv[3], 443)); sockets.append(knocking)
time.sleep(0.5)
def is_open(knocking):
    try: return bool(knocking.getpeername())
    except OSError: return False
print(sum(map(is_open, sockets)))
"""
# The largest segment that each side may send, as the kernel knows it (tcp_info), after a connection is made.
SEGMENTS = """
import socket, struct, sys
with socket.create_connection((sys.argv[1], 443)) as talking:
    print(struct.unpack_from("I", talking.getsockopt(6, 11, 104), 16)[0])
"""


def command(*words: str | Path) -> str:
    """Run a program to its end and return what it wrote."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def in_clients(script: str, *arguments: str) -> int:
    """The number that a script writes that runs where the clients are."""
    return int(command("ip", "netns", "exec", CLIENT_NAMESPACE, sys.executable, "-c", script, *arguments))


def serve(listener: socket.socket, sizes: list[int]) -> None:
    """Keep all that come, and note the segments that may be sent to them."""
    kept = []
    while True:
        visitor, _ = listener.accept()
        sizes.append(int.from_bytes(visitor.getsockopt(socket.IPPROTO_TCP, 11, 104)[16:20], sys.byteorder))
        kept.append(visitor)


def limits() -> None:
    """One address that opens many connections at once gets some of them, and the next address its own."""
    first = in_clients(KNOCK, CLIENTS[0], str(ATTEMPTS), SERVER)
    second = in_clients(KNOCK, CLIENTS[1], "4", SERVER)
    if not 4 <= first <= 14:
        raise Failed(f"{first} of {ATTEMPTS} connections at once")
    equal(second, 4, "connections of another address")
    time.sleep(1.5)
    if in_clients(KNOCK, CLIENTS[0], "2", SERVER) != 2:
        raise Failed("the first address does not get in later")


def cuts_up_hellos(work: Path, sizes: list[int]) -> None:
    """What is behind the # lets clients send small segments, and us large ones."""
    lines = RULES.read_text("utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().startswith("#chain answers"))
    lines[start:-1] = [line.replace("#", "", 1) for line in lines[start:-1]]
    rules = work / "all.nft"
    rules.write_text("\n".join(lines) + "\n", "utf-8")
    command("nft", "-f", rules)
    sizes.clear()
    theirs = in_clients(SEGMENTS, SERVER)
    if not theirs <= 256 or not sizes or not sizes[0] > 1000:
        raise Failed(f"clients send {theirs}, we send {sizes}")


def main() -> int:
    """Run all checks between two namespaces of their own."""
    options, work, score = set_up(mtg.arguments("The nftables file."), "nftables", "ip nft")
    sizes: list[int] = []

    def everything() -> None:
        command("ip", "netns", "add", CLIENT_NAMESPACE)
        try:
            command("ip", "link", "add", "server", "type", "veth", "peer", "name", "client", "netns", CLIENT_NAMESPACE)
            command("ip", "addr", "add", f"{SERVER}/24", "dev", "server")
            command("ip", "link", "set", "server", "up")
            for address in CLIENTS:
                command("ip", "-n", CLIENT_NAMESPACE, "addr", "add", f"{address}/24", "dev", "client")
            command("ip", "-n", CLIENT_NAMESPACE, "link", "set", "client", "up")
            with socket.create_server((SERVER, PORT), backlog=256) as listener:
                threading.Thread(target=serve, args=(listener, sizes), daemon=True).start()
                command("nft", "-f", RULES)
                command("nft", "-f", RULES)
                score.check("one address is limited, the others are not", limits)
                time.sleep(1.5)
                score.check("hellos are cut up, downloads are not", lambda: cuts_up_hellos(work, sizes))
                command("nft", "delete", "table", "inet", "mtg")
        finally:
            command("ip", "netns", "del", CLIENT_NAMESPACE)

    score.check("the rules go in twice and out", everything)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
