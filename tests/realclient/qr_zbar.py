"""The QR codes of `mtg access`, read by zbar: the SVG of the JSON and the half blocks of the terminal.

Usage: qr_zbar.py [MTG]. Needs zbarimg (Debian: zbar-tools).
"""

import base64
import json
import pathlib
import re
import subprocess
import sys
import tempfile

from set_up import need

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Pixels of a module.
SCALE = 6
HALVES = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}
HOSTS = ["a.io", "front.example", "a" * 60 + "." + "b" * 60 + ".example.com"]


def decode(rows: list[list[int]], folder: pathlib.Path) -> str:
    """What zbar reads in a picture of light (1) and dark (0) modules."""
    width, height = len(rows[0]) * SCALE, len(rows) * SCALE
    lines = [bytes(255 * module for module in row for _ in range(SCALE)) for row in rows for _ in range(SCALE)]
    picture = folder / "code.pgm"
    picture.write_bytes(f"P5 {width} {height} 255\n".encode() + b"".join(lines))
    done = subprocess.run(
        ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", picture], capture_output=True, check=True
    )
    return done.stdout.decode().rstrip("\n")


def modules_of_svg(uri: str) -> list[list[int]]:
    """The modules of a data URI, by the few elements that are in it."""
    head, data = uri.split(",", 1)
    assert head == "data:image/svg+xml;base64", head
    svg = base64.b64decode(data, validate=True).decode()
    width = int(re.search(r'viewBox="0 0 (\d+) \1"', svg)[1])
    rows = [[1] * width for _ in range(width)]
    dark = re.findall(r"M(\d+),(\d+)h1v1h-1z", svg)
    assert len(dark) > 200, len(dark)
    for x, y in dark:
        rows[int(y)][int(x)] = 0
    return rows


def modules_of_blocks(drawing: list[str]) -> list[list[int]]:
    """The modules of a drawing for the terminal."""
    rows = []
    for line in drawing:
        pairs = [HALVES[character] for character in line]
        rows += [[top for top, _ in pairs], [bottom for _, bottom in pairs]]
    return rows


def check(mtg: str, host: str, folder: pathlib.Path) -> int:
    """Decodes all codes of one secret and returns how many there were."""

    def run(*arguments: str) -> str:
        return subprocess.run([mtg, *arguments], capture_output=True, check=True, text=True).stdout

    config = folder / "mtg.conf"
    config.write_text(f"bind-to = 0.0.0.0:8443\nsecret = {run('generate-secret', host).strip()}\n")
    flags = ["--ipv4", "203.0.113.5", "--ipv6", "2001:db8::5", str(config)]
    document = json.loads(run("access", *flags))
    codes = 0
    links = []
    for family in ("ipv4", "ipv6"):
        address = document[family]
        assert list(address) == ["ip", "port", "tg_url", "tg_qrcode", "tme_url", "tme_qrcode"], list(address)
        links.append(address["tg_url"])
        for kind in ("tg", "tme"):
            assert decode(modules_of_svg(address[f"{kind}_qrcode"]), folder) == address[f"{kind}_url"]
            codes += 1
    drawn: dict[str, list[str]] = {}
    for line in run("access", "--qr", *flags).splitlines():
        if line.startswith("tg://"):
            drawing = drawn.setdefault(line, [])
        else:
            drawing.append(line)
    assert list(drawn) == links, list(drawn)
    for link, drawing in drawn.items():
        assert decode(modules_of_blocks(drawing), folder) == link
        codes += 1
    return codes


def main() -> None:
    need("zbarimg")
    mtg = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/release/mtg")
    with tempfile.TemporaryDirectory() as folder:
        codes = sum(check(mtg, host, pathlib.Path(folder)) for host in HOSTS)
    assert codes == 6 * len(HOSTS), codes
    print(f"{codes} QR codes were read back to their links")


main()
