"""Relays at the far end of a line: mtg, or haproxy that passes bytes as they are, with a data centre behind them."""
import contextlib
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from linking import FAR, FAR_2, NEAR_2, Line, Namespace
from phones import SECRET, DataCentre, Phone

PORT, DC_PORT = 4430, 4431
LISTEN_SECS = 20
HAPROXY = """
global
    maxconn 2000
defaults
    mode tcp
    timeout connect 5s
    timeout client 5m
    timeout server 5m
listen relay
    bind 0.0.0.0:{port}
    server dc {dc}
"""


@dataclass
class Relay:
    """What stands at the far end."""
    name: str
    label: str = ''
    # Keys of mtg's configuration; haproxy has none.
    settings: dict = field(default_factory=dict)
    # Values of the far end's kernel.
    system: dict = field(default_factory=dict)
    # The congestion control of all connections to the phone, whatever the relay wants; none is the relay's choice.
    control: str = ''

    def __post_init__(self):
        self.label = self.label or self.name

    @property
    def is_plain(self):
        return self.name == 'haproxy'


class Scene:
    """A phone, its line, a relay and the data centre, which has a line of its own if `dc_words` describe one."""

    def __init__(self, relay, binary, words, dc_words=None, mtu=1500):
        self.relay, self._binary, self._words, self._dc_words, self._mtu = relay, binary, words, dc_words, mtu

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._phone, server = stack.enter_context(Namespace()), stack.enter_context(Namespace())
            self.line = stack.enter_context(Line(self._phone, server, self._words, self._mtu))
            server.set(**self.relay.system)
            self.line.set_control(self.relay.control)
            place, dc = server, '127.0.0.1'
            if self._dc_words is not None:
                place, dc = stack.enter_context(Namespace()), FAR_2
                stack.enter_context(Line(server, place, self._dc_words, addresses=(NEAR_2, FAR_2)))
            stack.callback(DataCentre(place, (dc, DC_PORT), self.relay.is_plain).close)
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='relay-')))
            self.process = server.start(self._command(f'{dc}:{DC_PORT}'), stdout=open(self.folder / 'stdout', 'wb'),
                                        stderr=open(self.folder / 'stderr', 'wb'))
            stack.callback(self._stop)
            self._wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def connect(self, within=20):
        """A new connection of the phone."""
        return Phone(self._phone, (FAR, PORT), self.relay.is_plain, within)

    def log(self):
        return (self.folder / 'stderr').read_text('utf-8', 'replace')

    def _command(self, dc):
        config = self.folder / 'config'
        if self.relay.is_plain:
            config.write_text(HAPROXY.format(port=PORT, dc=dc))
            return [shutil.which('haproxy', path=os.environ['PATH'] + ':/usr/sbin'), '-db', '-f', config]
        settings = {'secret': SECRET.hex(), 'bind-to': f'0.0.0.0:{PORT}', 'dc-override.2': dc,
                    'domain-fronting.host': '127.0.0.1', 'log-level': 'debug', **self.relay.settings}
        config.write_text(''.join(f'{key} = {value}\n' for key, value in settings.items()))
        return [self._binary, 'run', config]

    def _wait(self):
        # A connection would count as a client, so the table of listeners is read.
        deadline = time.monotonic() + LISTEN_SECS
        table = Path(f'/proc/{self.process.pid}/net/tcp')
        while not re.search(f': 00000000:{PORT:04X} 00000000:0000 0A ', table.read_text()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f'{self.relay.name} does not listen: {self.log()}')
            time.sleep(0.02)

    def _stop(self):
        self.process.terminate()
        self.process.wait()
