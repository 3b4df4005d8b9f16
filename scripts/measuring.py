"""What the measuring scripts share: a network of their own, our configuration, a relay that listens, load and strangers."""
import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / 'target'
LOAD = TARGET / 'load/examples/load'
INSIDE = 'MTG_MEASURING_INSIDE'
RELAY, DC = '127.0.0.1:4430', '127.0.0.1:4431'
# Where a web server passes the requests of the WEB proxy to.
WEB = '127.0.0.1:4432'
# What our configuration below makes of the secret's host.
FRONT = ('127.0.0.1', 443)
# Real-time priority, above the load's with `chrt -r 1 scripts/bench`.
URGENT = 2
SECRET = 'ee' + bytes(range(16)).hex() + b'front.example'.hex()

OURS = f"""
secret = {SECRET}
bind-to = {RELAY}
dc-override.2 = {DC}
domain-fronting.host = 127.0.0.1
handshakes-per-ip = 0
concurrency = 9000
defense.anti-replay.max-size = 4mib
network.timeout.idle = 1h
fast-mode = %s
"""


@dataclass
class Relay:
    """A program that passes the bytes, and how to start it."""
    name: str
    config: str
    program: list
    cpu: int | None = None

    def start(self, folder, is_urgent=False):
        file = folder / f'{self.name}.conf'
        file.write_text(self.config)
        process = subprocess.Popen([*self.program, file], preexec_fn=pin(self.cpu, is_urgent), stdout=subprocess.DEVNULL)
        port = int(RELAY.split(':')[1])
        for _ in range(1000):
            # A connection would count as a client, so the table of listeners is read.
            if re.search(f': 0100007F:{port:04X} 00000000:0000 0A ', Path('/proc/net/tcp').read_text()):
                return process
            if process.poll() is not None:
                break
            time.sleep(0.01)
        sys.exit(f'{self.name} does not listen on {RELAY}')


def pin(cpu, is_urgent=False):
    """What a child does first: it stays on that CPU, before all others there if it is urgent and that is allowed."""

    def begin():
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        if is_urgent:
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(URGENT))

    return begin


class Load:
    """The load generator, with a pause before its work if wanted."""

    def __init__(self, pid, words, pauses=False, cpu=None, program=(LOAD,), relay=RELAY):
        options = ['--relay', relay, '--dc', DC, '--pid', pid, *(['--pause'] if pauses else [])]
        command = [str(word) for word in [*program, *words, *options]]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=pin(cpu))
        if pauses and self.process.stdout.readline() != 'ready\n':
            sys.exit(f'the load failed: {self.process.communicate()[0]}')

    def finish(self):
        """Lets it work and returns its line."""
        output, _ = self.process.communicate('\n')
        if self.process.returncode != 0:
            sys.exit(f'the load failed: {output}')
        return output


class Strangers:
    """A visitor of the front, and the front, which answers at once; how long that takes until the `with` block ends."""

    PAUSE_SECS = 0.005

    def __init__(self, cpu):
        self.cpu = cpu
        self.millis = []
        self.stop = threading.Event()
        self.front = socket.create_server(FRONT)
        self.thread = threading.Thread(target=self.visit)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.front.close()

    def visit(self):
        # It shares the load's processor, and the relay is what is measured.
        pin(self.cpu, is_urgent=True)()
        host, port = RELAY.split(':')
        visitor = socket.create_connection((host, int(port)))
        visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        visitor.sendall(b'GET /')
        link, _ = self.front.accept()
        # The proxy looks at the front as well.
        while link.recv(64) != b'GET /':
            link, _ = self.front.accept()
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not self.stop.wait(self.PAUSE_SECS):
            asked = time.monotonic()
            visitor.sendall(bytes(100))
            link.sendall(link.recv(100))
            visitor.recv(100)
            self.millis.append((time.monotonic() - asked) * 1e3)


def build_load():
    subprocess.run(['cargo', 'build', '--quiet', '--profile', 'load', '--locked', '--example', 'load'], cwd=ROOT, check=True)


def enter_namespace(arguments):
    """Starts this script again where nobody else uses the network."""
    user = [] if os.geteuid() == 0 else ['--map-root-user']
    os.execvpe('unshare', ['unshare', *user, '--net', sys.executable, sys.argv[0], *arguments], {**os.environ, INSIDE: '1'})


def prepare_network(mtu=65536):
    subprocess.run(['ip', 'link', 'set', 'lo', 'up', 'mtu', str(mtu)], check=True)
    # The namespace's default may only be set to what the machine allows everybody; a route may name any.
    route = 'local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1 congctl cubic'
    subprocess.run(['ip', 'route', 'replace', *route.split()], check=True)
    with socket.create_server(('127.0.0.1', 0)) as server, socket.create_connection(server.getsockname()) as client:
        control = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b'\0')
        if control != b'cubic':
            sys.exit(f'the connections use {control.decode()}, not cubic')
    for name, value in {'ip_local_port_range': '10000 65000', 'tcp_tw_reuse': '1'}.items():
        Path('/proc/sys/net/ipv4', name).write_text(value)
