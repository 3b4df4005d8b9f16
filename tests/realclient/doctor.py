"""`mtg doctor` against set-ups that are broken in one way each: it must name that cause, and no other.

Usage: doctor.py [--mtg BINARY] [--work FOLDER]. Needs nginx, curl, openssl and faketime.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import json
import os
import pty
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import front_nginx
import mock_dc
import mtg
from front_nginx import FRONT, PROXY, SECRET
from loop_thread import LoopThread
from score import Failed, Score, equal
from set_up import set_up

TIME_SERVER = ("127.0.0.1", 1123)
# Above what doctor takes at most.
DOCTOR_SECS = 25
NTP_EPOCH = 2_208_988_800
MEDIA_DC = ("dc-override.203", "127.0.0.16:9000")
PASSWORD = "correct-horse"


@contextmanager
def time_server() -> Iterator[None]:
    """An SNTP server with this machine's clock."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(TIME_SERVER)
        server.settimeout(0.1)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    question, peer = server.recvfrom(1024)
                except TimeoutError:
                    continue
                now = time.time() + NTP_EPOCH
                stamp = struct.pack(">II", int(now), int(now % 1 * 2**32))
                server.sendto(bytes([0x24, 1, 0, 0]) + bytes(20) + question[40:48] + stamp + stamp, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class Doctor:
    """Runs doctor with one configuration."""

    def __init__(self, binary: Path, work: Path) -> None:
        self._binary = binary
        self._config = work / "doctor.conf"
        self.mode = 0o600

    def findings(self, settings: dict[str, str], prefix: tuple[str, ...] = ()) -> dict[str, tuple[str, str]]:
        """What it finds: grade and text by subject. Fails if a private thing is in it, or the exit code is wrong."""
        self._write(settings)
        flags = ("doctor", "--json", "--time-server", f"{TIME_SERVER[0]}:{TIME_SERVER[1]}", self._config)
        began = time.monotonic()
        done = subprocess.run([*prefix, self._binary, *flags], capture_output=True, timeout=DOCTOR_SECS)
        if time.monotonic() - began > 16:
            raise Failed("doctor takes longer than 15 s")
        text = (done.stdout + done.stderr).decode()
        for private in (SECRET.hex()[2:34], PASSWORD):
            if private in text:
                raise Failed("doctor shows a secret")
        report = json.loads(done.stdout)
        found = {finding["subject"]: (finding["grade"], finding["text"]) for finding in report["findings"]}
        silent = [finding for finding in report["findings"] if finding["grade"] != "ok" and not finding["advice"]]
        equal(silent, [], "findings without advice")
        has_failed = any(grade == "fail" for grade, _ in found.values())
        equal((report["result"] == "fail", done.returncode), (has_failed, int(has_failed)), "result and exit code")
        return found

    def grades(self) -> None:
        """Two sites that are not there are graded without a configuration, in whatever order."""
        done = subprocess.run(
            [self._binary, "doctor", "--json", "--front", "front.invalid,stranger.invalid"],
            capture_output=True,
            timeout=DOCTOR_SECS,
        )
        found = json.loads(done.stdout)["findings"]
        equal({finding["subject"] for finding in found}, {"front.invalid", "stranger.invalid"}, "sites")
        equal([finding["grade"] for finding in found], ["fail", "fail"], "grades")
        equal(done.returncode, 1, "exit code")

    def health(self, settings: dict[str, str]) -> int:
        """The exit code of the health check, which must not take as long as the rest."""
        self._write(settings)
        began = time.monotonic()
        done = subprocess.run([self._binary, "doctor", "--health", self._config], capture_output=True, timeout=DOCTOR_SECS)
        if time.monotonic() - began > 10:
            raise Failed("a health check takes longer than the image allows")
        return done.returncode

    def _write(self, settings: dict[str, str]) -> None:
        lines = [f"{key} = {value}" for key, value in settings.items()]
        self._config.write_text("\n".join(lines) + "\n", "utf-8")
        self._config.chmod(self.mode)

    def seen_in_a_terminal(self) -> str:
        """What it writes when stdout is a terminal, with the configuration of the last run."""
        parent, child = pty.openpty()
        with subprocess.Popen([self._binary, "doctor", self._config], stdout=child, stderr=child):
            os.close(child)
            seen = b""
            try:
                while piece := os.read(parent, 65536):
                    seen += piece
            except OSError:
                pass  # The child has gone, which a terminal reports as an error.
        os.close(parent)
        return seen.decode()


class Checks:
    """The set-ups."""

    def __init__(self, doctor: Doctor, score: Score) -> None:
        self._doctor = doctor
        self._score = score
        self._good = {
            "bind-to": f"{PROXY[0]}:{PROXY[1]}",
            "secret": SECRET.hex(),
            "domain-fronting.host": FRONT[0],
            "domain-fronting.port": str(FRONT[1]),
            "public-ipv4": PROXY[0],
            **dict(mock_dc.overrides()),
            MEDIA_DC[0]: mock_dc.overrides()[0][1],
        }

    def with_proxy(self) -> None:
        """Those for which the proxy runs."""
        self._check("nothing is wrong", {}, {"front's answer": ("warn", "records where mtg's comes in one")})
        self._score.check("a health check passes", lambda: equal(self._doctor.health(self._good), 0, "exit code"))
        listed = {**self._good, "defense.allowlist.enabled": "true"}
        claim = "a health check passes where a list may shut this machine out"
        self._score.check(claim, lambda: equal(self._doctor.health(listed), 0, "exit code"))
        self._score.check("the report shows in a terminal, with progress before it", self._terminal)
        wrong = {"clock": ("fail", " s ahead of 127.0.0.1:1123")}
        # A hello that is an hour ahead is not answered as a client's.
        blind = {"port": "fail", "public address": "fail"}
        ahead = ("faketime", "-f", "+3600s")
        self._check("the clock is off", {}, wrong, tolerated=blind, prefix=ahead)
        self._doctor.mode = 0o644
        readers = {"configuration": ("warn", "every user of this machine can read the file and the secret in it")}
        self._check("the file with the secret is open to all", {}, readers)
        self._doctor.mode = 0o600
        dead = {mock_dc.overrides()[1][0]: "127.0.0.99:9000"}
        self._check("a DC is dead", dead, {"DC 2": ("fail", "cannot be reached: ")})
        foreign = {mock_dc.overrides()[2][0]: f"{FRONT[0]}:{FRONT[1]}"}
        self._check("somebody else answers for a DC", foreign, {"DC 3": ("fail", "does not answer as Telegram")})
        media = {MEDIA_DC[0]: MEDIA_DC[1]}
        self._check("only the DC for media is dead", media, {"DC 203": ("warn", "cannot be reached: ")})
        looping = {"domain-fronting.port": str(PROXY[1])}
        self._check("the front is this proxy", looping, {"front": ("fail", "it leads back to this proxy")})
        hidden = {"domain-fronting.host": "127.0.0.1", "domain-fronting.port": "4443"}
        with forwarding(("127.0.0.1", 4443), PROXY):
            self._check("the front leads here by a detour", hidden, {"front": ("fail", "it leads back to this proxy")})
        closed = {"domain-fronting.port": "1"}
        self._check("the front is away", closed, {"front": ("fail", "cannot be reached: ")})
        other = {"secret": SECRET.hex()[:-2] + "61"}
        taken = {"port": ("fail", "another program listens"), "public address": ("fail", "somebody else answers")}
        self._check("a proxy with another secret has the port", other, taken)
        self._ways()
        socks = {"network.proxies": f"socks5://user:{PASSWORD}@127.0.0.1:1"}
        self._check("a SOCKS5 proxy is away", socks, {"proxy 1": ("fail", "cannot be reached: ")}, tolerated=ANY_DC)

    def _ways(self) -> None:
        """Telegram on a way of its own, and nobody else."""
        down = {"network.bind-ipv4": "192.0.2.9"}
        lost = {"DC 1": ("fail", "no connections from 192.0.2.9")}
        self._check("the way to Telegram is down", down, lost, tolerated=ANY_DC)
        claim = "a health check passes where the way to Telegram is down"
        self._score.check(claim, lambda: equal(self._doctor.health({**self._good, **down}), 0, "exit code"))
        with marked_alone(address.split(":")[0] for _, address in mock_dc.overrides()):
            self._check("Telegram is on a way for packets with a mark", {"network.mark": "7"}, {})
            self._check("the mark is missing", {}, {"DC 1": ("fail", "cannot be reached: ")}, tolerated=ANY_DC)

    def without_proxy(self) -> None:
        """Those for which it does not."""
        claim = "a health check fails when the proxy does not run"
        self._score.check(claim, lambda: equal(self._doctor.health(self._good), 1, "exit code"))
        gone = {"port": ("warn", "the proxy does not run"), "public address": ("warn", "cannot be reached")}
        self._check("the proxy does not run", {}, gone)
        nobody = {"clock": ("ok", " Telegram")}
        self._check("no time server answers, but Telegram does", {}, {**gone, **nobody}, has_time=False)
        with socket.create_server(PROXY):
            taken = {"port": ("fail", "another program listens"), "public address": ("warn", "cannot be reached")}
            self._check("another program has the port", {}, taken)
            claim = "a health check fails when another program has the port"
            self._score.check(claim, lambda: equal(self._doctor.health(self._good), 1, "exit code"))
        unknown_name = bytes.fromhex("15030300020270")
        for claim, answer, text in (
            ("the front does not speak TLS", b"HTTP/1.1 400 Bad Request\r\n\r\n", "it answers, but not in TLS"),
            ("the front does not know the secret's host", unknown_name, "asked for front.example: it has no site of that name"),
        ):
            # A server for each: doctor may ask twice, and what waits for the first must not meet the second.
            with socket.create_server(("127.0.0.1", 5443)) as mute:
                silent = {"domain-fronting.host": "127.0.0.1", "domain-fronting.port": "5443"}
                threading.Thread(target=answer_once, args=(mute, answer), daemon=True).start()
                self._check(claim, silent, {**gone, "front": ("fail", text)})
        self._fronts(gone)
        with hanging_up(PROXY):
            full = {"port": ("warn", "hangs up at once"), "public address": ("warn", "hangs up at once")}
            self._check("the proxy has no free place", {}, full)
            claim = "a health check passes where all places are taken"
            self._score.check(claim, lambda: equal(self._doctor.health(self._good), 0, "exit code"))
        named = {**gone, "public host": ("warn", "localhost, at ")}
        self._check("the name in the links is visited", {"public-host": "localhost"}, named)
        self._score.check("sites are graded, those that are away last", lambda: self._doctor.grades())
        self._all_silent(gone)
        local = {"secret": SECRET.hex()[:34] + b"localhost".hex()}
        ours = {**gone, "name": ("ok", "localhost leads to this machine")}
        self._check("the secret's host leads here", local, ours)
        elsewhere = {**local, "public-ipv4": "127.0.0.2"}
        theirs = {**gone, "name": ("warn", "127.0.0.1, this machine at 127.0.0.2")}
        self._check("the secret's host leads elsewhere", elsewhere, theirs)

    def _fronts(self, gone: dict[str, tuple[str, str]]) -> None:
        """Fronts with the PROXY header the wrong way round, and one of TLS 1.2."""
        for claim, port, changes, text in (
            ("the front wants a PROXY header", 5444, {}, "it wants a PROXY header"),
            ("the front minds a PROXY header", FRONT[1], {"domain-fronting.proxy-protocol": "true"}, "it cannot read the PROXY"),
            ("the front speaks TLS 1.2 only", 5445, {}, "it answers in an older TLS"),
        ):
            there = {"domain-fronting.host": "127.0.0.1", "domain-fronting.port": str(port), **changes}
            self._check(claim, there, {**gone, "front": ("fail", text)})

    def _all_silent(self, gone: dict[str, tuple[str, str]]) -> None:
        """Whoever is asked takes the question and never answers: the limit for everything holds."""
        with socket.create_server(("127.0.0.1", 5443)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(TIME_SERVER)
            dcs = {key: "127.0.0.1:5443" for key in (*dict(mock_dc.overrides()), MEDIA_DC[0])}
            silent = {**dcs, "domain-fronting.host": "127.0.0.1", "domain-fronting.port": "5443"}
            wrong = {
                **gone,
                "clock": ("warn", "nobody could be asked"),
                "front": ("fail", "does not answer"),
                "DC 1": ("fail", "says nothing"),
                "DC 203": ("warn", "says nothing"),
            }
            self._check("everybody is silent", silent, wrong, tolerated=ANY_DC, has_time=False)

    def _check(
        self,
        claim: str,
        changes: dict[str, str],
        wanted: dict[str, tuple[str, str]],
        tolerated: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        has_time: bool = True,
    ) -> None:
        def attempt() -> None:
            with time_server() if has_time else nullcontext():
                found = self._doctor.findings({**self._good, **changes}, prefix)
            for subject, (grade, text) in wanted.items():
                if subject not in found or found[subject][0] != grade or text not in found[subject][1]:
                    raise Failed(f"{subject}: {found.get(subject)}, wanted {grade} with {text!r}")
            for subject, (grade, text) in found.items():
                expected = grade == "ok" or subject in wanted or subject in (tolerated or {}) or subject in HARMLESS
                if not expected:
                    raise Failed(f"{subject} is not what is broken, but {grade}: {text}")
            needed = {"configuration", "clock", "port", "front", "DC 1", "DC 5", "DC 203"}
            equal(needed - found.keys(), set(), "subjects that are missing")

        self._score.check(claim, attempt)

    def _terminal(self) -> None:
        seen = self._doctor.seen_in_a_terminal()
        if "\r\x1b[Kchecking: " not in seen or "\nok   DC 1: answers as Telegram" not in seen.replace("\r", ""):
            raise Failed(f"seen: {seen!r}")


# An early version may warn of keys without effect; the sandbox may have a low limit of open files; nginx answers in
# several records, and with an older OpenSSL with an older key.
HARMLESS = {"configuration", "open files", "front's key", "front's answer"}
ANY_DC = {f"DC {number}": "fail" for number in (1, 2, 3, 4, 5, 203)}


def answer_once(server: socket.socket, answer: bytes) -> None:
    """Answer one visitor, whatever he says."""
    try:
        visitor, _ = server.accept()
    except OSError:
        return
    with visitor:
        visitor.recv(65536)
        visitor.sendall(answer)


def other_fronts(work: Path) -> str:
    """Servers of nginx that mtg cannot hide behind as they are."""
    certificate = f"ssl_certificate {work}/front.example.pem; ssl_certificate_key {work}/front.example.key;"
    return (
        f"server {{ listen 127.0.0.1:5444 ssl proxy_protocol; {certificate} }}\n"
        f"server {{ listen 127.0.0.1:5445 ssl; ssl_protocols TLSv1.2; {certificate} }}\n"
    )


@contextmanager
def hanging_up(address: tuple[str, int]) -> Iterator[None]:
    """A server that closes whatever comes."""

    def serve(server: socket.socket) -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    with socket.create_server(address) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)


@contextmanager
def marked_alone(hosts: Iterable[str]) -> Iterator[None]:
    """Packets to these pass if they have the mark 7."""
    rules = ["pref 3 lookup local", "pref 1 fwmark 7 lookup local", *(f"pref 2 to {host} prohibit" for host in set(hosts))]
    # The rule for this machine's own addresses comes before all others as it is.
    usual = "pref 0 lookup local"
    _change_rules([f"add {rule}" for rule in rules] + [f"del {usual}"])
    try:
        yield
    finally:
        _change_rules([f"add {usual}"] + [f"del {rule}" for rule in rules])


def _change_rules(changes: list[str]) -> None:
    for change in changes:
        subprocess.run(["ip", "rule", *change.split()], check=True)


@contextmanager
def forwarding(listen: tuple[str, int], to: tuple[str, int]) -> Iterator[None]:
    """A plain forwarder of one port to another."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve(server: socket.socket) -> None:
        while True:
            try:
                visitor, _ = server.accept()
                target = socket.create_connection(to)
            except OSError:
                return
            for pair in ((visitor, target), (target, visitor)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(listen) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)


def main() -> int:
    """Run all checks in a network namespace of their own."""
    options, work, score = set_up(mtg.arguments("mtg doctor against broken set-ups."), "doctor", "curl faketime ip nginx openssl")
    binary = options.mtg
    settings = [
        ("secret", SECRET.hex()),
        ("domain-fronting.host", FRONT[0]),
        ("domain-fronting.port", str(FRONT[1])),
        *mock_dc.overrides(),
    ]
    dcs = mock_dc.MockDataCentres()

    def checks() -> None:
        with front_nginx.nginx(work, directives=other_fronts(work)), LoopThread() as loop:
            loop.run(dcs.listen())
            set_ups = Checks(Doctor(binary, work), score)
            with mtg.Mtg(binary, work / "mtg", PROXY).run(settings) as proxy:
                set_ups.with_proxy()
                proxy.stop()
            set_ups.without_proxy()

    score.check("nginx, the DCs and mtg start and end well", checks)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
