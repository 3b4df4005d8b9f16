"""Load for `scripts/bench`: apps at the WEB proxy's listener on one side, the data centre on its other side.

It stands where the web server does, without TLS, and takes what `examples/load` takes; no payload is looked at. The
kinds are `download`, `idle` (sessions, each with `--streams` streams) and `hold` (all downloads stay where the apps
stop reading). It prints one line of JSON.
"""
from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import struct
import time
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HOST, KEY = 'front.example', bytes(range(16))
OPEN, DATA, WINDOW = 1, 2, 4
HELLO = bytes.fromhex('100000000000000101')
CREDIT = 1 << 20
TICKS = os.sysconf('SC_CLK_TCK')
SETTLE_SECS = 2
# A stream that does not come to the data centre in this time does not come at all.
OPEN_SECS = 45


def frame(kind, number, payload=b''):
    return struct.pack('>II', kind << 24 | number, len(payload)) + payload


def opening():
    """An app's first 64 bytes for DC 2."""
    plain = b'\x01' + os.urandom(55) + b'\xdd' * 4 + struct.pack('<h', 2) + os.urandom(2)
    key = hashlib.sha256(plain[8:40] + KEY).digest()
    encrypted = Cipher(algorithms.AES(key), modes.CTR(plain[40:56])).encryptor().update(plain)
    return plain[:56] + encrypted[56:]


class App:
    """A session; bytes of streams are counted and dropped."""

    def __init__(self, relay):
        self.relay, self.number, self.cursor, self.got, self.owed = relay, 1, 0, 0, {}

    async def connect(self):
        self.up = await asyncio.open_connection(*self.relay, limit=4 << 20)
        self.down = await asyncio.open_connection(*self.relay, limit=4 << 20)
        context = f'tdesktop-web-proxy-bridge-v1\n{HOST}'.encode()
        code = base64.urlsafe_b64encode(hmac.digest(KEY, context, hashlib.sha256)).rstrip(b'=').decode()
        _, _, page = await self.ask(self.up, f'GET /?bridge={code}', {})
        self.carrier = re.search(rb'carrierMode="(\w+)"', page)[1].decode()
        token = re.search(rb'bootstrap="([\w-]+)"', page)[1].decode()
        _, fields, _ = await self.ask(self.up, 'POST /api/v1/session', {'Authorization': f'Bearer {token}'}, HELLO)
        self.token = fields['x-session-token']
        if self.carrier == 'websocket':
            await self.ask(self.down, 'GET /api/v1/ws', {
                'Upgrade': 'websocket', 'Connection': 'Upgrade', 'Sec-WebSocket-Version': '13',
                'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Protocol': f'tproxy-v1.{self.token}'})
            self.up[1].close()
        return self

    async def ask(self, connection, line, fields, body=None):
        reader, writer = connection
        head = f'{line} HTTP/1.1\r\nHost: {HOST}\r\n' + ''.join(f'{key}: {value}\r\n' for key, value in fields.items())
        if body is not None:
            head += f'Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n'
        writer.write(head.encode() + b'\r\n' + (body or b''))
        head = (await reader.readuntil(b'\r\n\r\n')).decode().split('\r\n')
        found = {key.lower(): value for key, value in (line.split(': ', 1) for line in head[1:] if line)}
        status = int(head[0].split()[1])
        if status >= 300:
            raise SystemExit(f'status {status}')
        return status, found, await reader.readexactly(0 if status in (101, 204) else int(found['content-length']))

    async def send(self, batch):
        if self.carrier == 'websocket':
            size = len(batch)
            length = struct.pack('>BBH', 0x82, 0xfe, size) if size < 65536 else struct.pack('>BBQ', 0x82, 0xff, size)
            self.down[1].write(length + bytes(4) + batch)
            return
        fields = {'Authorization': f'Bearer {self.token}', 'X-Up-Seq': self.number}
        await self.ask(self.up, 'POST /api/v1/up', fields, batch)
        self.number += 1

    async def open(self, numbers):
        first = b''.join(frame(OPEN, number) + frame(DATA, number, opening()) for number in numbers)
        await self.send(first)

    async def pump(self):
        """Take a batch, and give credit back as apps do."""
        if self.carrier == 'websocket':
            reader = self.down[0]
            _, second = await reader.readexactly(2)
            width = {126: '>H', 127: '>Q'}.get(second)
            if width:
                second, = struct.unpack(width, await reader.readexactly(struct.calcsize(width)))
            batch = await reader.readexactly(second)
        else:
            fields = {'Authorization': f'Bearer {self.token}', 'X-Down-Cursor': self.cursor, 'Content-Length': 0}
            status, _, batch = await self.ask(self.down, 'POST /api/v1/down', fields)
            self.cursor += status == 200
        at, credit = 0, b''
        while at < len(batch):
            word, size = struct.unpack_from('>II', batch, at)
            if word >> 24 == DATA:
                number = word & 0xffffff
                self.got += size
                owed = self.owed.get(number, 0) + size
                if owed >= CREDIT:
                    credit += frame(WINDOW, number, struct.pack('>I', owed))
                    owed = 0
                self.owed[number] = owed
            at += 8 + size
        if credit:
            await self.send(credit)


class Dc:
    """Floods everybody, or says nothing."""

    def __init__(self, floods):
        self.floods, self.open, self.may = floods, 0, asyncio.Event()

    async def serve(self, reader, writer):
        self.open += 1
        try:
            await self.may.wait()
            chunk = bytes(256 << 10)
            while self.floods:
                writer.write(chunk)
                await writer.drain()
            await reader.read()
        except (OSError, asyncio.CancelledError):
            pass
        writer.close()


class Gauge:
    def __init__(self, pid):
        self.pid = pid

    def cpu(self):
        fields = Path(f'/proc/{self.pid}/stat').read_text().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self):
        return int(Path(f'/proc/{self.pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def address(text):
    host, port = text.split(':')
    return host, int(port)


async def run(options):
    gauge, dc = Gauge(options.pid), Dc(options.kind != 'idle')
    server = await asyncio.start_server(dc.serve, *address(options.dc), limit=1 << 20)
    fresh = gauge.resident()
    apps = [await App(address(options.relay)).connect() for _ in range(options.connections)]
    await asyncio.sleep(SETTLE_SECS)
    sessions = gauge.resident() - fresh
    for app in apps:
        if options.streams:
            await app.open(range(1, options.streams + 1))
            # The allowance for new streams is 100 a second beyond the first 512.
            await asyncio.sleep(options.streams / 90 if options.connections * options.streams > 500 else 0)
    wanted, deadline = options.connections * options.streams, time.monotonic() + OPEN_SECS
    while dc.open < wanted:
        if time.monotonic() > deadline:
            raise SystemExit(f'only {dc.open} of {wanted} streams have reached the data centre')
        await asyncio.sleep(0.01)
    began, before = time.monotonic(), gauge.cpu()
    dc.may.set()
    if options.kind == 'download':
        each = (options.amount << 10) // options.connections

        async def download(app):
            while app.got < each:
                await app.pump()

        await asyncio.gather(*(download(app) for app in apps))
    else:
        await asyncio.sleep(SETTLE_SECS)
    result = {'cpu': gauge.cpu() - before, 'wall': time.monotonic() - began, 'bytes': sum(app.got for app in apps),
              'fresh': fresh, 'sessions': sessions, 'during': gauge.resident()}
    for app in apps:
        app.down[1].transport.abort()
    print(json.dumps(result), flush=True)
    # What still runs is of no use.
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=('download', 'idle', 'hold'))
    for name in ('--relay', '--dc'):
        parser.add_argument(name, required=True)
    parser.add_argument('--pid', type=int, required=True)
    parser.add_argument('--connections', type=int, default=1)
    parser.add_argument('--streams', type=int, default=1)
    parser.add_argument('--amount', type=int, default=1, help='KiB in all')
    asyncio.run(run(parser.parse_args()))


main()
