"""A phone and a data centre at the two ends of a relay: FakeTLS and obfuscated2, or, for relays that know only TCP, none.

Both talk in messages, kind (4) | length (4) | payload; the data centre does what it is asked, on as many connections as
come. Bytes of downloads follow from a seed, and the phone checks each.
"""
import random
import select
import socket
import struct
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT / 'tests/realclient'))

import faketls  # noqa: E402
import obfuscated2  # noqa: E402

SECRET = faketls.Secret(bytes(range(16)), 'front.example')
# What a phone asks for: the same back; so many bytes of a seed; one message after so many milliseconds.
PING, DOWNLOAD, LATER = range(3)
HEADER = struct.Struct('<II')
CHUNK = 1 << 18
ANSWER_SECS = 20


def block(seed):
    """What a download of this seed repeats."""
    return random.Random(seed).randbytes(CHUNK)


class DataCentre:
    """Listens and serves until its namespace is gone."""

    def __init__(self, namespace, address, is_plain):
        self._is_plain = is_plain
        with namespace.inside():
            self._listener = socket.create_server(address, backlog=1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._talk(connection)
        except (OSError, EOFError):
            pass  # The phone or the relay has left.
        finally:
            connection.close()

    def _talk(self, connection):
        same = lambda data: data
        decrypt = encrypt = same
        if not self._is_plain:
            streams = obfuscated2.accept(_exactly(connection, obfuscated2.FRAME_SIZE))
            decrypt, encrypt = streams.decrypt.update, streams.encrypt.update
        lock = threading.Lock()

        def send(kind, payload):
            with lock:
                connection.sendall(encrypt(HEADER.pack(kind, len(payload)) + payload))

        while True:
            kind, length = HEADER.unpack(decrypt(_exactly(connection, HEADER.size)))
            payload = decrypt(_exactly(connection, length))
            if kind == PING:
                send(PING, payload)
                continue
            count, seed = struct.unpack('<QI', payload)
            if kind == LATER:
                threading.Timer(count / 1000, _quietly(send), (LATER, payload)).start()
                continue
            repeated = block(seed)
            while count > 0:
                send(DOWNLOAD, repeated[:count])
                count -= CHUNK


class Phone:
    """One connection of a phone."""

    def __init__(self, namespace, address, is_plain, within):
        self._received, self._records = bytearray(), bytearray()
        self._encrypt = self._decrypt = None
        self.is_over = False
        with namespace.inside():
            self._socket = socket.create_connection(address, within)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._first = b''
        if not is_plain:
            try:
                self._shake_hands()
            except BaseException:
                self.close()
                raise
        self._socket.setblocking(False)

    def _shake_hands(self):
        self._socket.sendall(faketls.client_hello(SECRET, hybrid=True))
        for _ in range(3):
            header = _exactly(self._socket, 5)
            _exactly(self._socket, int.from_bytes(header[3:], 'big'))
        frame, streams = obfuscated2.connect(2, obfuscated2.PADDED_INTERMEDIATE, SECRET.key)
        self._encrypt, self._decrypt = streams.encrypt.update, streams.decrypt.update
        self._first = frame

    def ask(self, kind, count=0, seed=0):
        """Asks for something; a connection that is over takes note of it."""
        payload = struct.pack('<QI', count, seed)
        message = HEADER.pack(kind, len(payload)) + payload
        if self._encrypt:
            start, self._first = self._first, b''
            message = start + self._encrypt(message)
            record = b'\x17\x03\x03' + len(message).to_bytes(2, 'big') + message
            message = faketls.CHANGE_CIPHER_SPEC + record if start else record
        try:
            self._socket.sendall(message)
        except OSError:
            self.is_over = True

    def messages(self, within):
        """The messages that come within that time, at once when one does; none is there when the connection is over."""
        deadline = time.monotonic() + within
        while True:
            found = list(self._complete())
            left = deadline - time.monotonic()
            if found or self.is_over or left <= 0:
                return found
            if self._readable(left):
                self._receive()

    def wait_for(self, kind, within):
        """The payload of the next message of that kind, or none if it does not come in time or ever."""
        deadline = time.monotonic() + within
        while not self.is_over and (left := deadline - time.monotonic()) > 0:
            for found, payload in self.messages(left):
                if found == kind:
                    return payload
        return None

    def ping(self, within=ANSWER_SECS):
        """The time until an answer, seconds; none if there is none."""
        began = time.monotonic()
        self.ask(PING)
        return time.monotonic() - began if self.wait_for(PING, within) is not None else None

    def download(self, count, seed, within):
        """The time that a download takes, seconds; none if it does not come to its end. Each byte is checked."""
        began, left, repeated = time.monotonic(), count, block(seed)
        self.ask(DOWNLOAD, count, seed)
        while left > 0:
            payload = self.wait_for(DOWNLOAD, within - (time.monotonic() - began))
            if payload is None:
                return None
            if payload != repeated[:left]:
                raise ValueError(f'wrong bytes in a download, {left} bytes before its end')
            left -= len(payload)
        return time.monotonic() - began

    def has_news(self, within):
        """Whether bytes come within that time."""
        return not self.is_over and self._readable(within) and self._receive() > 0

    def drain(self):
        """Reads what has arrived, and says how much that is."""
        count = 0
        while self._readable(0) and not self.is_over:
            count += self._receive()
            self._received.clear()
            self._records.clear()
        return count

    def buffered(self):
        """Bytes that are no whole message yet."""
        return len(self._received) + len(self._records)

    def close(self):
        self._socket.close()

    def _readable(self, within):
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(within * 1000))

    def _receive(self):
        try:
            data = self._socket.recv(1 << 18)
        except BlockingIOError:
            return 0
        except OSError:
            data = b''
        if not data:
            self.is_over = True
        elif self._decrypt:
            self._records += data
            self._take_records()
        else:
            self._received += data
        return len(data)

    def _take_records(self):
        at = 0
        while len(self._records) - at >= 5:
            end = at + 5 + int.from_bytes(self._records[at + 3:at + 5], 'big')
            if len(self._records) < end:
                break
            self._received += self._decrypt(bytes(self._records[at + 5:end]))
            at = end
        del self._records[:at]

    def _complete(self):
        at = 0
        while len(self._received) - at >= HEADER.size:
            kind, length = HEADER.unpack_from(self._received, at)
            if len(self._received) - at < HEADER.size + length:
                break
            at += HEADER.size + length
            yield kind, bytes(self._received[at - length:at])
        del self._received[:at]


def _exactly(connection, count):
    data = bytearray()
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def _quietly(act):
    def attempt(*arguments):
        try:
            act(*arguments)
        except OSError:
            pass  # The relay has left meanwhile.
    return attempt
