"""The router's side of LuCI: a web server with the page's files, and rpcd behind it, which does what the access list allows.

The list is the package's own, read as rpcd reads it: a program may be named with its arguments, and `*` stands for anything.
"""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from router import Router

HERE = Path(__file__).resolve().parent
GROUP = "luci-app-mtg"
DENIED, NOT_FOUND = 6, 4
# rpcd's own, after which a program is ended.
EXEC_SECS = 30
# Languages that are written from right to left.
RIGHT_TO_LEFT = ("fa",)


class Rpcd:
    """Listens for the length of a `with` block."""

    def __init__(self, router: Router, address: tuple[str, int]) -> None:
        self._router = router
        self.commands: list[list[str]] = []
        self.denied: list[str] = []
        access = json.loads(router.read(f"/usr/share/rpcd/acl.d/{GROUP}.json"))[GROUP]
        self._groups = [access["read"], access["write"]]
        self._server = ThreadingHTTPServer(address, self._handler())
        self._server.daemon_threads = True

    def __enter__(self) -> Rpcd:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def call(self, name: str, method: str, params: dict) -> list:
        """What a call is answered with: a code, and data if it is 0."""
        may = any(method in group["ubus"].get(name, []) for group in self._groups)
        action = getattr(self, f"_{name}_{method}", None)
        if not may or not action:
            return self._denies(f"{name} {method}")
        return action(**{key: value for key, value in params.items() if value is not None})

    def _denies(self, what: str) -> list:
        self.denied.append(what)
        return [DENIED]

    def _may(self, what: str, how: str) -> bool:
        patterns = [pattern for group in self._groups for pattern, rights in group["file"].items() if how in rights]
        return any(fnmatch.fnmatchcase(what, pattern) for pattern in patterns)

    def _file_read(self, path: str) -> list:
        if not self._may(path, "read"):
            return self._denies(f"read {path}")
        file = self._router.root / path.lstrip("/")
        return [0, {"data": file.read_text("utf-8")}] if file.exists() else [NOT_FOUND]

    def _file_write(self, path: str, data: str, mode: int = 0o666) -> list:
        if not self._may(path, "write"):
            return self._denies(f"write {path}")
        file = self._router.root / path.lstrip("/")
        if not file.exists():
            file.touch()
            file.chmod(mode)
        file.write_text(data, "utf-8")
        return [0]

    def _file_exec(self, command: str, params: list[str] | None = None) -> list:
        words = [command, *(params or [])]
        if not self._may(command, "exec") and not self._may(" ".join(words), "exec"):
            return self._denies(" ".join(words))
        self.commands.append(words)
        done = subprocess.run(
            ["chroot", self._router.root, *words], check=False, capture_output=True, encoding="utf-8", timeout=EXEC_SECS,
            stdin=subprocess.DEVNULL, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "IPKG_INSTROOT": ""},
        )  # fmt: skip
        output = {key: text for key, text in (("stdout", done.stdout), ("stderr", done.stderr)) if text}
        return [0, {"code": done.returncode, **output}]

    def _uci_get(self, config: str) -> list:
        if not any(config in group.get("uci", []) for group in self._groups):
            return self._denies(f"uci {config}")
        sections: dict[str, dict[str, str]] = {}
        for line in self._router.read(f"/etc/config/{config}").splitlines():
            if found := re.fullmatch(r"config (\S+)(?: '(.*)')?", line):
                name = found[2] or f"cfg{len(sections):06x}"
                sections[name] = {".type": found[1], ".name": name}
            elif found := re.fullmatch(r"\s+option (\S+) '(.*)'", line):
                sections[name][found[1]] = found[2]
        return [0, {"values": sections}]

    def _page(self, query: str) -> str:
        wanted = dict(pair.split("=") for pair in query.split("&") if pair)
        language = wanted.get("lang", "en")
        page = (HERE / "page.html").read_text("utf-8").replace("@LANG@", language)
        return page.replace("@DIR@", "rtl" if language in RIGHT_TO_LEFT else "ltr").replace("@DARK@", wanted.get("dark", "false"))

    def _translations(self, language: str) -> str:
        """As the page gets them: by the hash of the English text."""
        file = self._router.root / f"usr/lib/lua/luci/i18n/mtg.{language}.lmo"
        return f"window.TR = {json.dumps(lmo_entries(file.read_bytes()))}" if file.exists() else ""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        rpcd = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            def do_GET(self) -> None:
                """The page and its parts."""
                path, _, query = self.path.partition("?")
                if path == "/":
                    self._answer("text/html", rpcd._page(query))
                elif path == "/translations.js":
                    self._answer("text/javascript", rpcd._translations(query))
                elif path in ("/luci.js", "/theme.css"):
                    self._answer("text/javascript" if path.endswith("js") else "text/css", (HERE / path[1:]).read_text("utf-8"))
                elif path.startswith("/luci-static/") and ".." not in path:
                    self._answer("text/javascript", rpcd._router.read(f"/www{path}"))
                else:
                    self.send_error(404)

            def do_POST(self) -> None:
                """A call of ubus."""
                _, name, method, params = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["params"]
                self._answer("application/json", json.dumps({"jsonrpc": "2.0", "id": 1, "result": rpcd.call(name, method, params)}))

            def _answer(self, kind: str, text: str) -> None:
                content = text.encode()
                self.send_response(200)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler


def lmo_entries(content: bytes) -> dict[str, str]:
    """The texts of an .lmo file, by the hash of what they translate."""
    table = int.from_bytes(content[-4:], "big")
    found = {}
    for at in range(table, len(content) - 4, 16):
        key, _, offset, length = (int.from_bytes(content[place : place + 4], "big") for place in range(at, at + 16, 4))
        found[f"{key:08x}"] = content[offset : offset + length].decode()
    return found
