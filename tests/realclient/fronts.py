"""Web servers of different makes as fronts, to compare the first flights of their handshakes with mtg's.

Usage: fronts.py MAKE ADDRESS PORT CERTIFICATE KEY serves until it is ended; it is started by flights.py.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A client that asks for a flight sends no Finished; it is gone after that time.
PATIENCE_SECS = 5


def serve_openssl(address: tuple[str, int], certificate: Path, key: Path) -> None:
    """The OpenSSL that pyOpenSSL brings: one record for each message."""
    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_chain_file(str(certificate))
    context.use_privatekey_file(str(key))
    context.set_alpn_select_callback(lambda _, offered: b"h2" if b"h2" in offered else SSL.NO_OVERLAPPING_PROTOCOLS)

    def serve(client: socket.socket) -> None:
        client.settimeout(PATIENCE_SECS)
        # The timeout makes the descriptor non-blocking, so the bytes are carried by hand.
        tls = SSL.Connection(context, None)
        tls.set_accept_state()
        try:
            while received := client.recv(65536):
                tls.bio_write(received)
                try:
                    tls.do_handshake()
                except SSL.WantReadError:
                    pass
                try:
                    client.sendall(tls.bio_read(65536))
                except SSL.WantReadError:
                    pass
        except (OSError, SSL.Error):
            pass
        finally:
            client.close()

    with socket.create_server(address, backlog=256) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client,), daemon=True).start()


def serve_boringssl(address: tuple[str, int], certificate: Path, key: Path) -> None:
    """The BoringSSL that grpcio brings: one record for the whole encrypted flight."""
    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    server.add_secure_port(f"{address[0]}:{address[1]}", credentials)
    server.start()
    while True:
        time.sleep(60)


MAKES = {"openssl": serve_openssl, "boringssl": serve_boringssl}


if __name__ == "__main__":
    make, host, port, certificate_file, key_file = sys.argv[1:]
    MAKES[make]((host, int(port)), Path(certificate_file), Path(key_file))
