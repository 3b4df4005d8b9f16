"""Makes the pictures of the README, in image/pictures/: LuCI's page with a link, and a link's QR code in a terminal.

Both are of what the program and the page really show, in Chromium, as luci.py plays a router; with a key that anybody can guess and
names for examples. That of the page carries the hash of the page's source, by which --check knows whether it is of this page.

Usage: pictures.py [--mtg BINARY] [--work FOLDER], as root. Needs chromium, busybox-static, pngquant and zbar-tools.
       pictures.py --check   Only looks whether the pictures are there, small, of today's page, and where their codes lead.
"""

from __future__ import annotations

import base64
import hashlib
import html
import shutil
import struct
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import loopback_only
import luci
import mtg
from loop_thread import LoopThread
from score import Failed, Score, equal
from set_up import need

PICTURES = luci.ROOT / "image/pictures"
SOURCE = luci.ROOT / "openwrt/luci-app-mtg/htdocs"
SECRET = "ee" + bytes(range(16)).hex() + b"www.example.com".hex()
CONF = f"bind-to = 0.0.0.0:8443\npublic-host = proxy.example.com\nsecret = {SECRET}\n"
LINK = "tg://proxy?port=8443&secret={}&server=proxy.example.com"
NAMES = ("luci", "terminal")
MOST_BYTES = 60_000
COLOURS = "32"
KEYWORD = b"Source"
# Of that size a letter of the font is 8 pixels wide, so there is nothing between two blocks.
TERMINAL = """<!doctype html><meta charset=utf-8><style>
body { margin: 0; background: #1c1c1c; width: max-content }
pre { margin: 0; padding: 14px 18px; color: #e4e4e4; font: 13.2879px/15px 'DejaVu Sans Mono', monospace }
</style><body class=ready><pre>"""


def hash_of_page() -> str:
    """Of every file that makes the page."""
    files = sorted(path for path in SOURCE.rglob("*") if path.is_file())
    content = b"".join(path.relative_to(SOURCE).as_posix().encode() + b"\0" + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def link() -> str:
    """What the pictures' codes lead to."""
    return LINK.format(base64.urlsafe_b64encode(bytes.fromhex(SECRET)).decode().rstrip("="))


def source_of(picture: Path) -> str:
    """The hash in a picture; nothing if there is none."""
    content, at = picture.read_bytes(), 8
    while at < len(content):
        (length,), kind = struct.unpack_from(">I", content, at), content[at + 4 : at + 8]
        keyword, _, text = content[at + 8 : at + 8 + length].partition(b"\0")
        if (kind, keyword) == (b"tEXt", KEYWORD):
            return text.decode("ascii")
        at += length + 12
    return ""


def check(picture: Path) -> None:
    """It is small, leads where it should, and shows the page as it is."""
    equal(picture.stat().st_size <= MOST_BYTES, True, f"{picture.name} is small")
    read = ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", picture]
    equal(subprocess.run(read, check=True, capture_output=True, encoding="utf-8").stdout.strip(), link(), f"link of {picture.name}")
    if picture.stem == "luci" and source_of(picture) != hash_of_page():
        raise Failed(f"image/pictures/{picture.name} is of another page; make it again with tests/realclient/pictures.py")


def _put(picture: Path) -> None:
    """Fewer colours, and the hash."""
    done = subprocess.run(["pngquant", "--strip", "--speed", "1", COLOURS, "-"], input=picture.read_bytes(), check=True, stdout=subprocess.PIPE)
    chunk = b"tEXt" + KEYWORD + b"\0" + hash_of_page().encode()
    # Behind the first chunk, as the format wants it.
    head = 8 + 25
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / picture.name).write_bytes(done.stdout[:head] + text + done.stdout[head:])
    check(PICTURES / picture.name)
    print(f"image/pictures/{picture.name}: {(PICTURES / picture.name).stat().st_size} bytes")


async def _page(browser: luci.Browser) -> None:
    await browser.visit(luci.PAGE, 700, 300)
    await browser.press("Start")
    await browser.wait("document.querySelector('#mtg-facts').innerText.includes('running since')")
    await browser.press("Start at boot")
    await browser.press("Show links and QR codes")
    await browser.wait("document.querySelector('#mtg-links img')?.complete")
    # What is above the next heading.
    await browser.value("void (document.querySelector('#mtg-findings').closest('.cbi-section').style.display = 'none')")
    await browser.value("void (document.querySelector('#mtg-editor').closest('.cbi-section').style.display = 'none')")
    await browser.picture("luci")


async def _terminal(browser: luci.Browser, binary: Path, conf: Path) -> None:
    printed = subprocess.run([binary, "access", "--qr", conf], check=True, capture_output=True, encoding="utf-8").stdout
    page = TERMINAL + html.escape(f"# mtg access --qr\n{printed}# ")
    await browser.visit("data:text/html;base64," + base64.b64encode(page.encode()).decode(), 830, 440)
    await browser.picture("terminal")


def main() -> int:
    """Make both, or look at them."""
    parser = mtg.arguments(__doc__)
    parser.add_argument("--check", action="store_true", help="make none")
    options = parser.parse_args()
    need("zbarimg" if options.check else "busybox chromium pngquant zbarimg")
    if options.check:
        score = Score()
        for name in NAMES:
            score.check(f"{name}.png is what is shown today, and its code leads where it should", partial(check, PICTURES / f"{name}.png"))
        return score.finish()
    luci.be_alone()
    loopback_only.enter()
    binary, work = options.mtg.resolve(), (options.work / "pictures").resolve()
    shutil.rmtree(work, ignore_errors=True)
    router = luci.installed(binary, work / "router")
    luci.Service(router).write_conf(CONF)
    (work / "mtg.conf").write_text(CONF, "ascii")
    browser = luci.Browser(work)
    with luci.Rpcd(router, luci.LUCI), LoopThread() as loop:
        loop.run(browser.start([]), luci.CHECK_SECS)
        try:
            loop.run(_page(browser), luci.CHECK_SECS)
            loop.run(_terminal(browser, binary, work / "mtg.conf"), luci.CHECK_SECS)
        finally:
            loop.run(browser.stop(), luci.CHECK_SECS)
    for name in NAMES:
        _put(work / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
