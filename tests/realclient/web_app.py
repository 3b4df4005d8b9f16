"""What stands at the ends of the WEB proxy in tests: apps without a browser, DCs that echo or flood, a line that breaks.

`App` speaks what the bridge page speaks, over TLS and HTTP/1.1, and is as strict: a frame for a stream that it does not
know fails, and so does a byte beyond the window. It can also do what no page does.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import ssl
import struct
from contextlib import suppress
from pathlib import Path

import frames
import obfuscated2
from adapter import capability

WINDOW = frames.WINDOW_START
STEP_SECS = 30
HOLD_SECS = 300
# What a stream says first to the DC of these tests: what the DC shall do.
ECHO, FLOOD, HOLD = b"E", b"F", b"H"


class Refused(Exception):
    """A status that is none of success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Dc:
    """A DC that does with each connection what its first byte says."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.peers: list[str] = []
        self.open = 0

    async def listen(self) -> None:
        """Start it."""
        self._server = await asyncio.start_server(self._serve, *self.address, limit=1 << 20)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(writer.get_extra_info("peername")[0])
        self.open += 1
        try:
            streams = obfuscated2.accept(await reader.readexactly(obfuscated2.FRAME_SIZE))
            order = streams.decrypt.update(await reader.readexactly(1))
            if order == FLOOD:
                while True:
                    writer.write(streams.encrypt.update(bytes(64 << 10)))
                    await writer.drain()
            if order == HOLD:
                await asyncio.sleep(HOLD_SECS)
            while data := await reader.read(256 << 10):
                writer.write(streams.encrypt.update(streams.decrypt.update(data)))
                await writer.drain()
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError, obfuscated2.BadFrame):
            # A task of a server that is cancelled at the end must not say so.
            pass
        finally:
            self.open -= 1
            writer.close()


class Line:
    """A way of TCP connections that can be cut: all at once, and the next ones go through again.

    It may carry only so many bytes a second for each connection, upwards or downwards.
    """

    def __init__(self, listen: tuple[str, int], to: tuple[str, int], upwards: int = 0, downwards: int = 0) -> None:
        self.address, self._to, self._upwards, self._downwards = listen, to, upwards, downwards
        self._writers: set[asyncio.StreamWriter] = set()
        self.cuts = 0

    async def listen(self) -> None:
        """Start it."""
        self._server = await asyncio.start_server(self._serve, *self.address, limit=1 << 20)

    async def cut(self) -> None:
        """Reset what there is; says how many connections that were by `cuts`."""
        for writer in list(self._writers):
            self.cuts += 1
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to, limit=1 << 20)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        # A task of a server that is cancelled at the end must not say so.
        with suppress(asyncio.CancelledError):
            await asyncio.gather(self._pass(reader, far_writer, self._upwards), self._pass(far_reader, writer, self._downwards))
        self._writers -= {writer, far_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pace: int = 0) -> None:
        try:
            while data := await reader.read(4 << 10 if pace else 256 << 10):
                writer.write(data)
                await writer.drain()
                if pace:
                    await asyncio.sleep(len(data) / pace)
        except OSError:
            pass
        writer.close()


class Http:
    """A connection to the web server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader, self.writer, self._host = reader, writer, host

    @classmethod
    async def connect(cls, site: Site) -> Http:
        """Over TLS, with a look at the certificate."""
        reader, writer = await asyncio.open_connection(
            *site.address, ssl=site.trust, server_hostname=site.host, local_addr=site.source, limit=4 << 20
        )
        return cls(reader, writer, site.host)

    async def ask(self, line: str, fields: dict[str, str], body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, fields with names in lower case, and body."""
        head = f"{line} HTTP/1.1\r\nHost: {self._host}\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields.items())
        if body is not None:
            head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + (body or b""))
        await self.writer.drain()
        answer = ["HTTP/1.1 100"]
        # Caddy passes on what mtg says to its own `Expect`.
        while answer[0].split()[1] == "100":
            answer = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {key.lower(): value for key, value in (line.split(": ", 1) for line in answer[1:] if line)}
        status = int(answer[0].split()[1])
        if "chunked" in found.get("transfer-encoding", ""):
            content = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                content += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        else:
            length = 0 if status in (101, 204) else int(found.get("content-length", 0))
            content = await self.reader.readexactly(length)
        return status, found, content

    def close(self) -> None:
        """At once."""
        self.writer.transport.abort()


class Site:
    """Where apps go: the public address and name of the web server, and the link's path."""

    def __init__(self, host: str, path: str, address: tuple[str, int], ca: Path, source: str | None = None) -> None:
        self.host, self.path, self.address = host, path, address
        self.base = f"/{path}/" if path else "/"
        self.trust = ssl.create_default_context(cafile=str(ca))
        self.source = (source, 0) if source else None


class Stream:
    """One of an app's connections; the client's end of obfuscated2."""

    def __init__(self, key: bytes) -> None:
        self.frame, self.ciphers = obfuscated2.connect(2, obfuscated2.PADDED_INTERMEDIATE, key)
        self.credit = WINDOW - len(self.frame)
        self.window = WINDOW
        self.received = 0
        self.plain = bytearray()
        self.is_closed = False


class App:
    """A session. `pump` has to be called, or `pump_forever` be run, for anything to arrive."""

    def __init__(self, site: Site, key: bytes) -> None:
        self._site, self._key = site, key
        self.streams: dict[int, Stream] = {}
        self._gone: set[int] = set()
        self._number, self._cursor = 1, 0
        self.gives_credit = True
        self.news = asyncio.Event()
        # Streams whose bytes it takes for no credit.
        self.unread: set[int] = set()
        self._sending = asyncio.Lock()

    async def start(self) -> App:
        """Load the page, make the session. Raises `Refused`."""
        page = await self.page(self._site, self._key)
        bootstrap = re.search(r'bootstrap="([\w-]{43})"', page)[1]
        self.carrier = re.search(r'carrierMode="([a-z]+)"', page)[1]
        self.up = await Http.connect(self._site)
        hello = frames.frame(frames.HELLO, 0, b"\1")
        status, fields, body = await self.up.ask(
            f"POST {self._site.base}api/v1/session", {"Authorization": f"Bearer {bootstrap}"}, hello
        )
        if status != 200 or body != frames.frame(frames.WELCOME, 0):
            raise Refused(status)
        self.token = fields["x-session-token"]
        self.down = await Http.connect(self._site)
        if self.carrier == "websocket":
            await self._upgrade()
        return self

    @staticmethod
    async def page(site: Site, key: bytes) -> str:
        """The text of the page. Raises `Refused`."""
        http = await Http.connect(site)
        code = capability(site.host, site.path, b"\xdd" + key)
        status, _, body = await http.ask(f"GET {site.base}?bridge={code}", {})
        http.close()
        if status != 200:
            raise Refused(status)
        return body.decode()

    async def _upgrade(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        fields = {
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Protocol": f"tproxy-v1.{self.token}",
        }  # fmt: skip
        status, _, _ = await self.down.ask(f"GET {self._site.base}api/v1/ws", fields)
        if status != 101:
            raise Refused(status)

    @property
    def bearer(self) -> dict[str, str]:
        """The session's credential."""
        return {"Authorization": f"Bearer {self.token}"}

    async def send(self, batch: bytes) -> None:
        """One batch, until it is taken. Raises `Refused` when the session is over."""
        if self.carrier == "websocket":
            self.down.writer.write(masked(0x82, batch))
            await self.down.writer.drain()
            return
        async with self._sending:
            await self._upload(batch)

    async def _upload(self, batch: bytes) -> None:
        while True:
            fields = {**self.bearer, "X-Up-Seq": str(self._number)}
            self.up, (status, answer, _) = await self._again(self.up, f"POST {self._site.base}api/v1/up", fields, batch)
            if status == 503:
                await asyncio.sleep(0.2)
                continue
            if status != 204 or answer.get("x-up-ack") != str(self._number):
                raise Refused(status)
            self._number += 1
            return

    async def open(self, number: int, order: bytes) -> Stream:
        """A stream to the DC, and what the DC shall do."""
        stream = self.streams[number] = Stream(self._key)
        first = stream.frame + stream.ciphers.encrypt.update(order)
        stream.credit -= len(order)
        await self.send(frames.frame(frames.OPEN, number) + frames.frame(frames.DATA, number, first))
        return stream

    async def write(self, number: int, plain: bytes) -> None:
        """Bytes for the DC."""
        stream = self.streams[number]
        for at in range(0, len(plain), frames.CHUNK):
            part = plain[at : at + frames.CHUNK]
            while stream.credit < len(part):
                await self.wait()
            stream.credit -= len(part)
            await self.send(frames.frame(frames.DATA, number, stream.ciphers.encrypt.update(part)))

    async def echo(self, number: int, size: int = 1000) -> None:
        """Something, and the same back."""
        stream, sent = self.streams[number], os.urandom(size)
        before = stream.received
        await self.write(number, sent)
        while stream.received < before + size:
            if stream.is_closed:
                raise Refused(0)
            await self.wait()
        if bytes(stream.plain[-size:]) != sent:
            raise frames.Bad(f"stream {number}: other bytes came back")
        stream.plain.clear()

    async def wait(self) -> None:
        """Wait for something to come."""
        self.news.clear()
        await asyncio.wait_for(self.news.wait(), STEP_SECS)

    async def pump_forever(self) -> None:
        """Take what comes until the session is over."""
        while True:
            await self.pump()

    async def pump(self) -> None:
        """Take the next batch."""
        batch = await (self._message() if self.carrier == "websocket" else self._poll())
        credit = b""
        for kind, number, payload in frames.split(batch) if batch else []:
            stream = self.streams.get(number)
            if stream is None or stream.is_closed:
                if number in self._gone:
                    continue
                raise frames.Bad(f"{frames.NAMES.get(kind, kind)} for stream {number}")
            if kind == frames.DATA:
                stream.window -= len(payload)
                if stream.window < 0 or not payload:
                    raise frames.Bad(f"DATA {number}: {len(payload)} bytes, window {stream.window}")
                stream.plain += stream.ciphers.decrypt.update(payload)
                del stream.plain[: -(4 << 20)]
                stream.received += len(payload)
                if self.gives_credit and number not in self.unread:
                    stream.window += len(payload)
                    credit += frames.window(number, len(payload))
            elif kind == frames.WINDOW:
                stream.credit += struct.unpack(">I", payload)[0]
                if stream.credit > WINDOW:
                    raise frames.Bad(f"stream {number}: more credit than was used")
            elif kind == frames.CLOSE:
                stream.is_closed = True
        if credit:
            await self.send(credit)
        self.news.set()

    async def _again(
        self, http: Http, line: str, fields: dict[str, str], body: bytes | None = None
    ) -> tuple[Http, tuple[int, dict[str, str], bytes]]:
        """Ask, once more over a new connection if the web server has closed this one: nginx does after 1000 requests."""
        try:
            return http, await http.ask(line, fields, body)
        except (OSError, asyncio.IncompleteReadError):
            http.close()
            http = await Http.connect(self._site)
            return http, await http.ask(line, fields, body)

    async def _poll(self) -> bytes:
        fields = {**self.bearer, "X-Down-Cursor": str(self._cursor), "Content-Length": "0"}
        self.down, (status, answer, body) = await self._again(self.down, f"POST {self._site.base}api/v1/down", fields)
        if status == 204:
            return b""
        if status != 200 or int(answer["x-down-cursor"]) != self._cursor + 1:
            raise Refused(status)
        self._cursor += 1
        return body

    async def _message(self) -> bytes:
        first, second = await self.down.reader.readexactly(2)
        width = {126: ">H", 127: ">Q"}.get(second)
        size = struct.unpack(width, await self.down.reader.readexactly(struct.calcsize(width)))[0] if width else second
        payload = await self.down.reader.readexactly(size)
        if first == 0x88:
            raise Refused(struct.unpack(">H", payload[:2])[0])
        if first == 0x89:
            self.down.writer.write(masked(0x8A, payload))
        return payload if first == 0x82 else b""

    def leave(self) -> None:
        """Without a word."""
        self.up.close()
        self.down.close()


def masked(first: int, payload: bytes) -> bytes:
    """A client's frame of a WebSocket."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else (
        struct.pack(">BH", 0xFE, size) if size < 65536 else struct.pack(">BQ", 0xFF, size)
    )
    # A mask of zeros is one like any other.
    return bytes([first]) + length + bytes(4) + payload
