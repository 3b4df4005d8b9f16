"""A front that answers whatever comes first with one fixed text, and keeps what it was sent."""

from __future__ import annotations

import asyncio

ANSWER = b"HTTP/1.1 400 Bad Request\r\nServer: front\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
KEEP_BYTES = 4096
PATIENCE_SECS = 60
# Who begins so gets a page without end.
ENDLESS = b"GET /endless"
BLOCK = b"\x55" * 65536


class FixedFront:
    """Keeps the first bytes of its latest connections; closes those that say nothing for `silence_secs`."""

    def __init__(self, silence_secs: float = PATIENCE_SECS) -> None:
        self._silence_secs = silence_secs
        self._seen: list[bytearray] = []

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Start to serve."""
        return await asyncio.start_server(self._serve, host, port, backlog=1024)

    def saw(self, sent: bytes) -> bool:
        """Tell whether a connection began with exactly these bytes."""
        return any(bytes(begin[: len(sent)]) == sent for begin in self._seen)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begin = bytearray()
        self._seen = [*self._seen[-63:], begin]
        try:
            async with asyncio.timeout(self._silence_secs) as limit:
                # All must be read: closing a socket with unread bytes resets the connection and may lose the answer.
                while received := await reader.read(65536):
                    is_first = not begin
                    limit.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECS)
                    # Kept before the answer: whoever has that may ask at once what was seen.
                    begin += received[: KEEP_BYTES - len(begin)]
                    if begin.startswith(ENDLESS):
                        await self._send_without_end(writer, limit)
                    if is_first:
                        writer.write(ANSWER)
                        writer.write_eof()
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _send_without_end(writer: asyncio.StreamWriter, limit: asyncio.Timeout) -> None:
        while True:
            limit.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECS)
            writer.write(BLOCK)
            await writer.drain()
            await asyncio.sleep(0.01)
