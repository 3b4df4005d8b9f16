"""Network namespaces of our own, and lines between them as phones have them. Nothing leaves them.

    with Namespace() as phone, Namespace() as server, Line(phone, server, 'delay=40 rate=20 queue=256 loss=2') as line:
        line.tell('hole=1')

The near end of a line has the address NEAR, the far end FAR; `line.tell('rebind')` gives the near end another one, as
seen from the far end. The words are those of examples/line.
"""
import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / 'target/debug/examples/line'
NEAR, FAR = '10.77.0.2', '10.77.255.1'
# The same for a second line.
NEAR_2, FAR_2 = '10.78.0.2', '10.78.255.1'
CLONE_NEWNET = 0x4000_0000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
ANSWER_SECS = 5

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def build_line():
    """Makes the program that is the line."""
    subprocess.run(['cargo', 'build', '--quiet', '--locked', '--example', 'line'], cwd=ROOT, check=True,
                   env={**os.environ, 'CARGO_TARGET_DIR': str(ROOT / 'target')})


def enter_user_namespace():
    """Makes this process, which must have one thread only, root of its own where it is not root already."""
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        _checked(_libc.unshare(0x1000_0000), 'no user namespace: run this as root')
        Path('/proc/self/setgroups').write_text('deny')
        Path('/proc/self/uid_map').write_text(f'0 {uid} 1')
        Path('/proc/self/gid_map').write_text(f'0 {gid} 1')


class Namespace:
    """A network of its own."""

    def __init__(self):
        home = os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.unshare(CLONE_NEWNET), 'no network namespace: run this as root')
            self._file = os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
            subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
        finally:
            _checked(_libc.setns(home, CLONE_NEWNET), 'no way back')
            os.close(home)

    @contextlib.contextmanager
    def inside(self):
        """This thread is in there for a while; sockets that it makes stay in there."""
        home = os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
        self.enter()
        try:
            yield
        finally:
            _checked(_libc.setns(home, CLONE_NEWNET), 'no way back')
            os.close(home)

    def enter(self):
        """This thread, or the child that is about to be a program, moves in there."""
        _checked(_libc.setns(self._file, CLONE_NEWNET), 'cannot enter a network namespace')

    def run(self, *command):
        """Runs a short command in there."""
        with self.inside():
            subprocess.run(command, check=True)

    def set(self, **settings):
        """Sets values below /proc/sys/net/ipv4."""
        with self.inside():
            for name, value in settings.items():
                Path('/proc/sys/net/ipv4', name).write_text(str(value))

    def start(self, command, **options):
        """Starts a program in there."""
        return subprocess.Popen(command, preexec_fn=self.enter, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._file)


class Line:
    """A line between two namespaces. `mtu` is what both ends believe; only the first kind of address can be rebound."""

    def __init__(self, near, far, words='', mtu=1500, addresses=(NEAR, FAR)):
        self._folder = tempfile.TemporaryDirectory(prefix='line-')
        self._control = Path(self._folder.name, 'control')
        ends = addresses[0].rsplit('.', 2)[0] + '.0.0/16'
        near_name, far_name = f'line{next(_numbers)}', f'line{next(_numbers)}'
        devices = [_tun(near, near_name, addresses[0], f'{addresses[1]}/32', mtu),
                   _tun(far, far_name, addresses[1], ends, mtu)]
        self._back = (far, ends, far_name)
        try:
            self._process = subprocess.Popen([PROGRAM, self._control, *words.split()],
                                             stdin=devices[0], stdout=devices[1])
        finally:
            for device in devices:
                os.close(device)
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(Path(self._folder.name, 'asker')))
        self._socket.settimeout(ANSWER_SECS)
        deadline = time.monotonic() + ANSWER_SECS
        while not self._control.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError('the line does not start')
            time.sleep(0.01)

    def tell(self, words=''):
        """Changes the line, and returns what has passed in each direction."""
        with self._lock:
            self._socket.sendto(words.encode(), str(self._control))
            return json.loads(self._socket.recv(4096))

    def set_control(self, control):
        """Gives the far end's connections that congestion control, whatever their program sets; none is its choice."""
        if control:
            far, ends, name = self._back
            far.run('ip', 'route', 'replace', ends, 'dev', name, 'congctl', 'lock', control)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._socket.close()
        self._folder.cleanup()


def _tun(namespace, name, address, route, mtu):
    """A device of that namespace, up and with a route."""
    with namespace.inside():
        device = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(device, TUNSETIFF, struct.pack('16sH22x', name.encode(), IFF_TUN | IFF_NO_PI))
        silence = Path('/proc/sys/net/ipv6/conf', name, 'disable_ipv6')
        if silence.exists():
            # Else the system looks for IPv6 routers there, and these packets count.
            silence.write_text('1')
        for command in (f'address add {address}/32 dev {name}', f'link set {name} up mtu {mtu} txqueuelen 1000',
                        f'route add {route} dev {name}'):
            subprocess.run(['ip', *command.split()], check=True)
    return device


def _checked(result, fault):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f'{fault}: {os.strerror(number)}')
