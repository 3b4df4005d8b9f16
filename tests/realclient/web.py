"""A web server with TLS whose pages and certificate a test may change while it runs, and that answers DNS over HTTPS.

It speaks HTTP/1.1 only.
"""

from __future__ import annotations

import http.server
import ssl
import struct
import threading
import time
from pathlib import Path

DNS_PATH = "/dns-query"
DNS_TYPE = "application/dns-message"
TYPE_A = 1


class Web:
    """Leaving the `with` block ends it."""

    def __init__(self, address: tuple[str, int], certificate: tuple[Path, Path], names: dict[str, str]) -> None:
        self.pages: dict[str, bytes] = {}
        # How many records a page comes in, and how many seconds lie between them.
        self.paced: dict[str, tuple[int, float]] = {}
        self.requests: list[str] = []
        self._names = names
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # noqa: N802
                web.requests.append(f"GET {self.path}")
                if self.path in web.paced:
                    self._answer_slowly(*web.paced[self.path])
                    return
                page = web.pages.get(self.path)
                self._answer(404 if page is None else 200, "text/plain", page or b"")

            def do_POST(self) -> None:  # noqa: N802
                web.requests.append(f"POST {self.path}")
                question = self.rfile.read(int(self.headers["Content-Length"]))
                is_dns = self.path == DNS_PATH and self.headers["Content-Type"] == DNS_TYPE
                self._answer(200 if is_dns else 400, DNS_TYPE, web._resolve(question) if is_dns else b"")

            def _answer(self, status: int, kind: str, body: bytes, length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def _answer_slowly(self, records: int, pause: float) -> None:
                self._answer(200, "text/plain", b"", length=1000 * records)
                for _ in range(records):
                    time.sleep(pause)
                    self.wfile.write(bytes(1000))

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.use(certificate)
        self._server = _Server(address, Handler, self._context)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def use(self, certificate: tuple[Path, Path]) -> None:
        """Take another certificate for the connections to come."""
        self._context.load_cert_chain(*certificate)

    def _resolve(self, question: bytes) -> bytes:
        """The answer with the address of the name that is asked for, if it has one of that kind."""
        labels, at = [], 12
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
        (kind,) = struct.unpack_from(">H", question, at + 1)
        address = self._names.get(".".join(labels)) if kind == TYPE_A else None
        record = b""
        if address is not None:
            content = bytes(int(part) for part in address.split("."))
            record = struct.pack(">HHHIH", 0xC00C, TYPE_A, 1, 60, 4) + content
        return question[:2] + b"\x81\x80" + question[4:6] + bytes([0, bool(record)]) + question[8:] + record

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler], context: ssl.SSLContext
    ) -> None:
        self._context = context
        super().__init__(address, handler)

    def finish_request(self, request: object, client_address: object) -> None:
        # In the connection's own thread, for the handshake may fail or hang.
        try:
            with self._context.wrap_socket(request, server_side=True) as stream:  # type: ignore[arg-type]
                super().finish_request(stream, client_address)
        except OSError:
            pass  # A client that does not like the certificate leaves.
