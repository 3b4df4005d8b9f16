"""The page of luci-app-mtg in Chromium, on a router that is a folder: the packages' own files, a real mtg, busybox.

LuCI itself is played (tests/realclient/luci/): the few functions of its client side that the page uses, its web server, and
rpcd, which allows what the package's access list allows. Pictures of the page come into target/luci/.

Usage: luci.py [--mtg BINARY] [--work FOLDER], as root. Needs chromium, busybox-static and zbar-tools.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import loopback_only
import mtg
from loop_thread import LoopThread
from score import Failed, Score, equal
from set_up import need

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("tests/realclient/luci", "tests/realclient/webclient", "tests/appliance", "scripts")]
import lmo  # noqa: E402
import openwrt  # noqa: E402
from browser import Browser  # noqa: E402
from router import Router, be_alone  # noqa: E402
from rpcd import Rpcd, lmo_entries  # noqa: E402
from service import Service, answers, wait_for  # noqa: E402

LUCI = ("127.0.0.1", 8000)
PAGE = f"http://{LUCI[0]}:{LUCI[1]}/"
PICTURES = ROOT / "target/luci"
CANDIDATE = "etc/mtg.conf.luci"
MTG_USER = 32768
CHECK_SECS = 120
NARROW = 360
# Of the hash's author's program.
HASHES = {b"a": 0x115EA782, b"ab": 0x516B8B44, b"abc": 0xD2BE198A, b"abcd": 0xDAD8B8DB, "é".encode(): 0xC4FBA554}
LOGREAD = "#!/bin/sh\ngrep . /tmp/log\n"
FIREWALL = "".join(f"config zone\n\toption name '{name}'\n\n" for name in ("lan", "wan", "guest"))


def installed(binary: Path, folder: Path) -> Router:
    """A router with both packages, not started yet."""
    router = Router(folder)
    openwrt.binary_of = lambda _triple, _name: binary.read_bytes()
    for package in openwrt.packages(["mtg"]):
        for file in package.files(""):
            target = router.root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.content)
            target.chmod(file.mode)
    libraries = subprocess.run(["ldd", binary], check=False, capture_output=True, encoding="utf-8").stdout
    for path in re.findall(r"(/\S+)", libraries):
        target = router.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(ROOT / "tests/realclient/luci/uci", router.root / "bin/uci")
    for place, text in (
        ("sbin/logread", LOGREAD),
        ("etc/config/firewall", FIREWALL),
        ("etc/openwrt_release", ""),
        ("etc/passwd", f"root:x:0:0:root:/root:/bin/ash\nmtg:x:{MTG_USER}:{MTG_USER}:mtg:/var/run/mtg:/bin/false\n"),
        ("etc/group", f"root:x:0:\nmtg:x:{MTG_USER}:\n"),
    ):
        # Some are links to busybox.
        (router.root / place).unlink(missing_ok=True)
        (router.root / place).write_text(text, "ascii")
        (router.root / place).chmod(0o755 if "bin" in place else 0o644)
    for script in sorted((router.root / "etc/uci-defaults").iterdir()):
        router.run(f"cd /etc/uci-defaults && . ./{script.name}")
        script.unlink()
    return router


class Page:
    """The checks build on one another."""

    def __init__(self, router: Router, rpcd: Rpcd, browser: Browser) -> None:
        self._router, self._rpcd, self._browser = router, rpcd, browser
        self._service = Service(router)
        self._secrets: set[str] = set()

    def all(self, score: Score, loop: LoopThread) -> None:
        """Every check, in order."""
        checks: tuple[tuple[str, Callable[[], Coroutine[object, object, object]]], ...] = (
            ("a router whose mtg does not run is shown as such", self._stopped),
            ("start, restart, stop: what runs is shown, and since when", self._starts),
            ("the start at boot is switched off and on", self._boot),
            ("without a public address the page says what to do", self._no_address),
            ("each field of the form tells of its mistake, and nothing is saved", self._field_mistakes),
            ("what only mtg finds wrong is said in its words, and nothing is saved or left behind", self._mtg_mistakes),
            ("the form is saved, taken up, and leaves comments, mode and owner alone", self._good_form),
            ("a port that somebody else has is told", self._taken_port),
            ("the text tells of its mistake with the line, and is saved when it is good", self._text),
            ("what the form cannot show stays text", self._sections),
            ("an address of IPv6 is no list: the form stays", self._ipv6),
            ("what somebody else has changed meanwhile is not overwritten; a router that does not answer is not down", self._meanwhile),
            ("a zone of none closes the port", self._no_zone),
            ("links come with a code that a phone reads", self._links),
            ("a new secret warns, refuses nonsense, and replaces the old one", self._secret),
            ("problems are found, with what to do", self._doctor),
            ("the log is shown", self._log),
            ("no text is taken for HTML", self._html),
            ("a narrow screen, the dark, three languages, one of them from right to left", self._looks),
            ("no secret is in an argument, a log or an address", self._no_leaks),
            ("the access list allows what the page does, and nothing else", self._access),
        )
        for claim, check in checks:
            self._remember()
            score.check(claim, lambda check=check: loop.run(check(), CHECK_SECS))

    def _remember(self) -> None:
        self._secrets |= set(re.findall(r"^secret = (\S+)$", self._service.conf(), re.MULTILINE))

    async def _visit(self, query: str = "", width: int = 1000) -> None:
        await self._browser.visit(f"{PAGE}?{query}", width)

    async def _stopped(self) -> None:
        await self._visit()
        text = await self._browser.text()
        for part in ("Telegram proxy", "not running", "is not started"):
            if part not in text:
                raise Failed(text)

    async def _starts(self) -> None:
        browser = self._browser
        await browser.press("Start")
        await browser.wait("document.querySelector('#mtg-facts').innerText.includes('running since')")
        first = self._service.pid()
        text = await browser.text("#mtg-facts")
        for part in ("0.0.0.0:8443", "connections: 0\n", "↓ 0 B ↑ 0 B"):
            if part not in text:
                raise Failed(text)
        if "Congestion control\nbbr" not in text and "bbr is many times as fast: opkg update && opkg install kmod-tcp-bbr, then restart mtg" not in text:
            raise Failed(text)
        # Whatever this machine has.
        await browser.value("modules['view.mtg.overview'].show({running: true, enabled: true, since: 1, congestion_control: 'cubic', bbr_command: 'get it'})")
        if "cubic - on lines with losses bbr is many times as fast: get it" not in await browser.text("#mtg-facts"):
            raise Failed(await browser.text("#mtg-facts"))
        await browser.value("modules['view.mtg.overview'].refresh()")
        await browser.press("Restart")
        await browser.wait("document.querySelector('#mtg-facts').innerText.includes('running since')")
        if self._service.pid() in (0, first):
            raise Failed("it was not restarted")
        await browser.press("Stop")
        await browser.wait("document.querySelector('#mtg-facts').innerText.includes('not running')")
        equal(answers(8443), False, "something listens")
        await browser.press("Start")
        await browser.picture("running")

    async def _boot(self) -> None:
        links = self._router.root / "etc/rc.d"
        await self._browser.press("Start at boot")
        equal(sorted(os.listdir(links)), ["K10mtg", "S95mtg"], "links")
        await self._browser.press("Do not start at boot")
        equal(os.listdir(links), [], "links")
        await self._browser.press("Start at boot")

    async def _no_address(self) -> None:
        await self._browser.press("Show links and QR codes")
        await self._browser.wait("document.querySelector('#mtg-links').innerText.includes('Public name')")

    async def _field_mistakes(self) -> None:
        before = self._service.conf()
        for field, value, good, message in (
            ("port", "99999", "8443", "A port is a number"),
            ("port", "", "8443", "must not be empty"),
            ("host", "http://home.example/", "", "name or address alone"),
            ("proxies", "192.0.2.1:1080", "", "socks5://HOST:PORT"),
            ("lists", "blocklist.txt", "", "A list is a file"),
        ):
            await self._browser.fill(field, value)
            await self._browser.press("Check and save")
            if field == "proxies":
                await self._browser.picture("mistake")
            shown = await self._browser.message()
            if not shown.startswith("Nothing was saved. Mend what is marked in red first.\nOption ") or message not in shown:
                raise Failed(f"{field}: {shown}")
            # Of a list, the last line that has something.
            await self._visit() if field in ("proxies", "lists") else await self._browser.fill(field, good)
        equal(self._service.conf(), before, "configuration")

    async def _mtg_mistakes(self) -> None:
        before = self._service.conf()
        for field, value, key in (("proxies", "socks5://127.0.0.1:99999", "network.proxies"), ("lists", "http://example.com:99999/l", "defense.blocklist.urls")):
            await self._visit()
            await self._browser.fill(field, value)
            # What is off is not judged.
            if field == "lists":
                await self._browser.value("document.querySelector('[data-name=blocks] input').click()")
            await self._browser.press("Check and save")
            message = await self._browser.message()
            if not re.search(rf"Nothing was saved:\n/etc/mtg\.conf:\d+: {re.escape(key)}: ", message):
                raise Failed(message)
            equal((self._router.root / CANDIDATE).exists(), False, "something is left behind")
            equal(self._service.conf(), before, "configuration")

    async def _good_form(self) -> None:
        await self._visit()
        before = self._service.conf()
        for field, value in (("port", "8444"), ("zone", "guest"), ("host", "home.example.org"), ("proxies", "socks5://u:p%23w@127.0.0.1:1080"), ("lists", "/etc/mtg/list")):
            await self._browser.fill(field, value)
        await self._browser.value("document.querySelector('[data-name=blocks] input').click()")
        await self._browser.press("Check and save")
        message = await self._browser.message()
        if not message.startswith("Saved.") or "mtg is restarted, for these keys take it: bind-to" not in message:
            raise Failed(message)
        after = self._service.conf()
        lost = [line for line in before.splitlines() if line not in after.splitlines() and not line.startswith("bind-to")]
        equal(lost, [], "lines that are gone")
        new = [line for line in after.splitlines() if line not in before.splitlines()]
        wanted = [
            "bind-to = 0.0.0.0:8444",
            "defense.blocklist.enabled = true",
            "defense.blocklist.urls = /etc/mtg/list",
            "network.proxies = socks5://u:p%23w@127.0.0.1:1080",
            "public-host = home.example.org",
        ]
        equal(sorted(new), wanted, "new lines")
        conf = (self._router.root / "etc/mtg.conf").stat()
        equal((conf.st_mode & 0o777, conf.st_uid, conf.st_gid), (0o640, 0, MTG_USER), "mode and owner")
        wait_for("the new port", lambda: answers(8444) and not answers(8443))
        equal((self._service.rule()["src"], self._service.open_port()), ("guest", "8444"), "zone and port in the firewall")
        await self._visit()
        shown = await self._browser.value("[...document.querySelectorAll('.cbi-value input[type=text], .cbi-value select')].map(f => f.value).join(' ')")
        equal(shown, "8444 guest home.example.org socks5://u:p%23w@127.0.0.1:1080  /etc/mtg/list ", "fields")
        equal(await self._browser.text("[data-name=site] span"), "www.google.com", "web site")

    async def _taken_port(self) -> None:
        await self._browser.fill("port", str(LUCI[1]))
        await self._browser.press("Check and save")
        message = await self._browser.message()
        if not re.match("Saved, but the service does not work with it:\n.*mtg does not listen yet, and the firewall stays closed: ", message, re.DOTALL):
            raise Failed(message)
        await self._browser.fill("port", "8444")
        await self._browser.press("Check and save")
        await self._browser.message()
        wait_for("the old port", lambda: answers(8444))

    async def _text(self) -> None:
        browser, before = self._browser, self._service.conf()
        changed = before.replace("\npublic-host = home", "\npublic-host = other")
        await browser.fill("host", "other.example.org")
        await browser.press("Edit as text")
        equal(await browser.value("document.querySelector('textarea').value"), changed, "text")
        number = before.count("\n") + 1
        await browser.value("document.querySelector('textarea').value += 'concurrency = lots\\n'")
        await browser.press("Check and save")
        await browser.picture("text")
        message = await browser.message()
        if f'/etc/mtg.conf:{number}: concurrency: "lots" is not a whole number' not in message:
            raise Failed(message)
        equal(((self._router.root / CANDIDATE).exists(), self._service.conf()), (False, before), "left behind; configuration")
        await browser.value("(t => t.value = t.value.replace('lots', '500'))(document.querySelector('textarea'))")
        await browser.press("Check and save")
        if not (await browser.message()).startswith("Saved."):
            raise Failed("not saved")
        equal(self._service.conf(), changed + "concurrency = 500\n", "configuration")
        await browser.press("Edit as a form")
        await browser.wait("document.querySelector('[data-name=host] input').value == 'other.example.org'")

    async def _sections(self) -> None:
        browser, before = self._browser, self._service.conf()
        await browser.press("Edit as text")
        await browser.value("document.querySelector('textarea').value += '[network.timeout]\\nidle = 1m\\n'")
        await browser.press("Edit as a form")
        if "sections or lists" not in await browser.message():
            raise Failed("a form")
        await browser.press("Check and save")
        await browser.message()
        equal(self._service.conf(), before + "[network.timeout]\nidle = 1m\n", "configuration")
        await self._visit()
        await browser.wait("document.querySelector('textarea')")
        await browser.value(f"document.querySelector('textarea').value = {before!r}")
        await browser.press("Check and save")
        await browser.message()

    async def _ipv6(self) -> None:
        browser, before = self._browser, self._service.conf()
        conf = before.replace("bind-to = 0.0.0.0:", "bind-to = [::]:")
        for others, is_form in (("", True), ("#network.proxies = [a]:1\n", True), ("network.proxies = [\n]\n", False)):
            self._service.write_conf(conf + others)
            await self._visit()
            await browser.wait("document.querySelector('textarea, [data-name=port]')")
            equal(await browser.value("!!document.querySelector('[data-name=port]')"), is_form, f"a form with {others!r}")
        self._service.write_conf(before)
        await self._visit()

    async def _meanwhile(self) -> None:
        """From the terminal, while the page is open."""
        await self._visit()
        other = self._service.conf() + "# of somebody else\n"
        self._service.write_conf(other)
        await self._browser.fill("host", "mine.example.org")
        await self._browser.press("Check and save")
        if "somebody else has changed the file meanwhile" not in await self._browser.message():
            raise Failed("no word about it")
        equal(self._service.conf(), other, "configuration")
        # What the router does not answer is no news of mtg.
        await self._browser.value("void (fs.exec = () => Promise.reject(new Error('gone')))")
        await self._browser.value("modules['view.mtg.overview'].refresh()")
        if "running since" not in await self._browser.text("#mtg-facts"):
            raise Failed("it is shown as stopped")

    async def _no_zone(self) -> None:
        await self._visit()
        await self._browser.fill("zone", "")
        await self._browser.press("Check and save")
        await self._browser.message()
        wait_for("a closed port", lambda: not self._service.open_port())
        await self._browser.fill("zone", "wan")
        await self._browser.press("Check and save")
        await self._browser.message()
        wait_for("an open port", lambda: self._service.open_port() == "8444")

    async def _link(self) -> str:
        """The link that is shown, after its code has been read off the picture."""
        await self._browser.press("Show links and QR codes")
        await self._browser.wait("document.querySelector('#mtg-links img')?.complete")
        link = str(await self._browser.value("document.querySelector('#mtg-links input').value"))
        await self._browser.picture("links")
        read = ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", PICTURES / "links.png"]
        equal(subprocess.run(read, check=True, capture_output=True, encoding="utf-8").stdout.strip(), link, "what a phone reads")
        return link

    async def _links(self) -> None:
        link = await self._link()
        equal(link, f"tg://proxy?port=8444&secret={self._service.secret()}&server=other.example.org", "link")
        await self._browser.value("document.querySelector('#mtg-links input').parentNode.querySelector('button').click()")
        await self._browser.wait("document.querySelector('#mtg-links').innerText.includes('Copied')")
        chosen = "(input => input.value.slice(input.selectionStart, input.selectionEnd))(document.querySelector('#mtg-links input'))"
        equal(await self._browser.value(chosen), link, "what is copied")
        await self._browser.press("Hide")
        equal(await self._browser.text("#mtg-links"), "", "links that are hidden")

    async def _secret(self) -> None:
        browser, before = self._browser, self._service.conf()
        await browser.press("New secret...")
        if "all links that you have given away stop working" not in await browser.text("#modal"):
            raise Failed("no warning")
        await browser.picture("secret")
        await browser.press("Cancel")
        await browser.press("New secret...")
        await browser.value("document.querySelector('#modal input').value = 'no site'")
        await browser.press("Replace the secret")
        message = await browser.message()
        if "host name" not in message:
            raise Failed(message)
        equal(self._service.conf(), before, "configuration")
        await browser.value("document.querySelector('#modal input').value = 'www.example.com'")
        await browser.press("Replace the secret")
        await browser.wait("!document.body.classList.contains('modal-overlay-active')")
        await browser.message()
        new = self._service.secret()
        if new in self._secrets or before.replace(re.findall(r"^secret = (\S+)$", before, re.MULTILINE)[0], new) != self._service.conf():
            raise Failed("the secret, or more than that, was not replaced")
        self._remember()
        await browser.wait(f"document.querySelector('#mtg-links input')?.value.includes({new!r})")
        equal(await browser.text("[data-name=site] span"), "www.example.com", "web site")

    async def _doctor(self) -> None:
        await self._browser.press("Find problems")
        await self._browser.wait("document.querySelectorAll('.mtg-finding.danger').length")
        text = await self._browser.text("#mtg-findings")
        for part in ("the proxy answers on 0.0.0.0:8444", "front - broken", "→ "):
            if part not in text:
                raise Failed(text)
        await self._browser.picture("problems")

    async def _log(self) -> None:
        await self._browser.press("Show log")
        await self._browser.wait("document.querySelector('.mtg-log')?.innerText.includes('NOTICE listening bind-to=0.0.0.0:8444')")

    async def _html(self) -> None:
        log = self._router.root / "tmp/log"
        log.write_text(log.read_text("utf-8") + "mtg <img src=x onerror='window.broken=1'>\n", "utf-8")
        await self._browser.press("Edit as text")
        await self._browser.value("document.querySelector('textarea').value += '<img src=x onerror=window.broken=1>\\n'")
        await self._browser.press("Check and save")
        await self._browser.press("Show log")
        await self._browser.wait("document.querySelector('.mtg-log').innerText.includes('<img')")
        equal(await self._browser.value("window.broken"), None, "a text was run")

    async def _looks(self) -> None:
        for name, query, width in (
            ("narrow", "", NARROW),
            ("dark", "dark=true", 1000),
            ("narrow-fa-dark", "lang=fa&dark=true", NARROW),
            ("fa", "lang=fa", 1000),
            ("ru", "lang=ru", 1000),
            ("narrow-ru", "lang=ru", NARROW),
            ("zh-cn", "lang=zh-cn", 1000),
        ):
            await self._visit(query, width)
            for place in range(2):
                # Links, and the log.
                await self._browser.value(f"[...document.querySelectorAll('.mtg-buttons button:first-child')][{1 + place}].click()")
            await self._browser.wait("document.querySelector('#mtg-links img') && document.querySelector('.mtg-finding')")
            await self._browser.picture(name)
            equal(await self._browser.value("[...missing]"), [], f"{name}: texts without a translation")
            # A scroll bar takes some of it.
            is_wide = f"document.documentElement.scrollWidth > {width}"
            equal(await self._browser.value(is_wide), False, f"{name}: wider than the screen")
            await self._browser.value("document.querySelector('#mtg-editor .mtg-buttons button:last-child').click()")
            await self._browser.wait("document.querySelector('textarea')")
            equal(await self._browser.value(is_wide), False, f"{name}: wider than the screen with the text")
            if query.startswith("lang"):
                translated = await self._browser.text("h2")
                if translated == "Telegram proxy":
                    raise Failed(f"{name}: {translated}")

    async def _no_leaks(self) -> None:
        self._remember()
        equal(len(self._secrets) > 1, True, "there were several secrets")
        places = [" ".join(words) for words in self._rpcd.commands] + self._browser.requests
        equal(len(places) > 50, True, "there were many commands and requests")
        places.append(self._router.read("/tmp/log"))
        for secret in self._secrets:
            # The page's own pictures of codes are drawn from what has come already.
            equal([place for place in places if secret in place], [], "places with a secret")
        strangers = [line for line in self._browser.requests if PAGE not in line and "data:" not in line]
        equal(strangers, [], "requests to others")
        equal(self._browser.console, [], "what the console says")

    async def _access(self) -> None:
        equal(self._rpcd.denied, [], "calls that were denied")
        for method, params in (
            ("read", {"path": "/etc/passwd"}),
            ("write", {"path": "/etc/mtg.conf", "data": ""}),
            ("write", {"path": "/etc/mtg.conf.luci/../passwd", "data": ""}),
            ("exec", {"command": "/bin/sh", "params": ["-c", "true"]}),
            ("exec", {"command": "/usr/bin/mtg", "params": ["access", "/etc/passwd"]}),
            ("exec", {"command": "/etc/init.d/mtg", "params": ["firewall"]}),
            ("remove", {"path": "/etc/mtg.conf"}),
        ):
            equal(self._rpcd.call("file", method, params), [6], f"{method} {params}")
        equal(self._rpcd.call("uci", "get", {"config": "network"}), [6], "uci")


def helper(router: Router) -> None:
    """What the page's program does when it is called by another, or not as it should be."""
    conf, candidate = router.root / "etc/mtg.conf", router.root / CANDIDATE
    before = conf.read_bytes()
    for arguments, text in (("save wan", None), ("", before), ("save 'a;b'", before), ("save wan", b"secret = 1\n")):
        if text is not None:
            candidate.write_bytes(text)
        router.run(f"/usr/libexec/mtg-luci {arguments}", code=1)
        equal((candidate.exists(), conf.read_bytes()), (False, before), f"{arguments}: left behind; configuration")


def languages() -> None:
    """The template and the three translations have every text of the page, and the packed files, too."""
    for text, hashed in HASHES.items():
        equal(lmo.super_fast_hash(text), hashed, f"hash of {text!r}")
    equal(lmo.super_fast_hash(b" a \n b "), lmo.super_fast_hash(b"a b"), "hash with white space")
    texts = lmo.texts(lmo.APP)
    equal(len(texts) > 50, True, "there are many texts")
    equal((lmo.APP / "po/templates/mtg.pot").read_text("utf-8"), lmo.template(lmo.APP), "template; make it with scripts/lmo.py")
    found = lmo.translations(lmo.APP)
    equal(sorted(found), ["fa", "ru", "zh-cn"], "languages")
    for language, po in found.items():
        known = lmo.entries(po)
        equal([text for text in texts if not known.get(text)], [], f"{language}: not translated")
        equal([text for text in known if text and text not in texts], [], f"{language}: nobody says so any more")
        for text in texts:
            equal(re.findall("%[sd]", known[text]), re.findall("%[sd]", text), f"{language}: places in {text!r}")
        packed = lmo_entries(lmo.lmo(po))
        equal(sorted(packed.values()), sorted(known[text] for text in texts), f"{language}: packed")


def main() -> int:
    """Run all checks."""
    options = mtg.arguments(__doc__).parse_args()
    need("busybox chromium zbarimg")
    be_alone()
    loopback_only.enter()
    shutil.rmtree(PICTURES, ignore_errors=True)
    score = Score()
    score.check("every text is in the template and in three languages", languages)
    router = installed(options.mtg.resolve(), (options.work / "luci-router").resolve())
    browser = Browser(PICTURES)
    with Rpcd(router, LUCI) as rpcd, LoopThread() as loop:
        loop.run(browser.start([]), CHECK_SECS)
        try:
            Page(router, rpcd, browser).all(score, loop)
            score.check("the program behind the page refuses what it cannot use, and leaves nothing behind", lambda: helper(router))
        finally:
            loop.run(browser.stop(), CHECK_SECS)
    return score.finish()


if __name__ == "__main__":
    sys.exit(main())
