"""TDLib, the library that Telegram's own apps are built on, as a client of the proxy under test."""

from __future__ import annotations

import json
import time
from pathlib import Path

import tdjson

from score import Failed

ANSWER_SECS = 10
# TDLib says this only after it has checked the proxy's ServerHello and the DC's `resPQ`; see `mock_dc`.
KEY_EXCHANGE_REFUSED = "MTProto error: -404"


class TdlibError(Failed):
    """TDLib answered a request with an error."""


class Tdlib:
    """One TDLib client with a session of its own; leaving the `with` block closes it."""

    def __init__(self, folder: Path) -> None:
        tdjson.td_execute(_json({"@type": "setLogVerbosityLevel", "new_verbosity_level": 0}))
        self._client = tdjson.td_create_client_id()
        self._requests = 0
        self._request(
            {
                "@type": "setTdlibParameters",
                "database_directory": str(folder),
                "files_directory": str(folder),
                "api_id": 1,
                "api_hash": "0" * 32,
                "system_language_code": "en",
                "device_model": "test",
                "system_version": "1",
                "application_version": "1",
            },
            ANSWER_SECS,
        )

    def ping(self, server: str, port: int, secret: str) -> None:
        """A `req_pq_multi` to the main DC, number 2, and back."""
        self._request({"@type": "pingProxy", "proxy": _proxy(server, port, secret)}, ANSWER_SECS)

    def reach(self, server: str, port: int, secret: str, dc: int, seconds: float = ANSWER_SECS) -> None:
        """Open a connection through the proxy to a DC and start a key exchange."""
        request = {"@type": "testProxy", "proxy": _proxy(server, port, secret), "dc_id": dc, "timeout": seconds}
        try:
            self._request(request, seconds + 5)
        except TdlibError as fault:
            if str(fault) != KEY_EXCHANGE_REFUSED:
                raise

    def _request(self, request: dict[str, object], seconds: float) -> None:
        self._requests += 1
        mark = str(self._requests)
        tdjson.td_send(self._client, _json({**request, "@extra": mark}))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            event = json.loads(tdjson.td_receive(0.25) or b"{}")
            if event.get("@extra") == mark:
                if event["@type"] == "error":
                    raise TdlibError(event["message"])
                return
        raise TdlibError(f"no answer to {request['@type']} in {seconds:g} s")

    def __enter__(self) -> Tdlib:
        return self

    def __exit__(self, *_: object) -> None:
        tdjson.td_send(self._client, _json({"@type": "close"}))
        deadline = time.monotonic() + ANSWER_SECS
        while time.monotonic() < deadline:
            event = json.loads(tdjson.td_receive(0.25) or b"{}")
            if event.get("authorization_state", {}).get("@type") == "authorizationStateClosed":
                return


def _json(request: dict[str, object]) -> bytes:
    return json.dumps(request).encode()


def _proxy(server: str, port: int, secret: str) -> dict[str, object]:
    return {"@type": "proxy", "server": server, "port": port, "type": {"@type": "proxyTypeMtproto", "secret": secret}}
