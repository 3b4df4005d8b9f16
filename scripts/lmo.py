#!/usr/bin/env python3
"""LuCI's translations: makes .lmo files, in which the router looks texts up, out of .po files.

Usage: scripts/lmo.py   writes the template of luci-app-mtg (po/templates/mtg.pot) anew, and says which translations are
missing. For the programs beside it, too.

An .lmo file is the translations, each padded to 4 bytes; a table with 16 bytes for each, sorted by the first of them: hash of
the English text, number of its plural forms, offset, length; and the offset of that table. All numbers are big-endian.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

APP = Path(__file__).resolve().parents[1] / "openwrt/luci-app-mtg"
# Of the folders of po/: what LuCI calls these languages.
LANGUAGES = {"zh_Hans": "zh-cn"}
MASK = 0xFFFF_FFFF


def super_fast_hash(text: bytes) -> int:
    """Paul Hsieh's hash; white space counts as LuCI has it: runs are one space, and there is none at the ends."""
    text = b" ".join(text.split())
    found = len(text)
    whole = len(text) & ~3
    for at in range(0, whole, 4):
        low, high = (int.from_bytes(text[place : place + 2], "little") for place in (at, at + 2))
        found = found + low & MASK
        found = (found << 16 ^ high << 11 ^ found) & MASK
        found = found + (found >> 11) & MASK
    rest = text[whole:]
    # The last byte counts with a sign.
    last = rest[-1] - ((rest[-1] & 0x80) << 1) if rest else 0
    if len(rest) == 3:
        found = found + int.from_bytes(rest[:2], "little") & MASK
        found = (found ^ found << 16 ^ last << 18) & MASK
        found = found + (found >> 11) & MASK
    elif len(rest) == 2:
        found = found + int.from_bytes(rest, "little") & MASK
        found = (found ^ found << 11) & MASK
        found = found + (found >> 17) & MASK
    elif rest:
        found = found + last & MASK
        found = (found ^ found << 10) & MASK
        found = found + (found >> 1) & MASK
    for left, right in ((3, 5), (4, 17), (25, 6)):
        found = (found ^ found << left) & MASK
        found = found + (found >> right) & MASK
    return found


def entries(po: str) -> dict[str, str]:
    """The texts of a .po file; what it says of itself has an empty one."""
    string = r'((?:"(?:[^"\\]|\\.)*"\s*)+)'
    parts = re.findall(rf"^msgid {string}^msgstr {string}", po, re.MULTILINE)
    return {ast.literal_eval(f"({text})"): ast.literal_eval(f"({translation})") for text, translation in parts}


def lmo(po: str) -> bytes:
    """The file for the router. What is not translated is left out."""
    content, table = b"", []
    for text, translation in entries(po).items():
        if text and translation:
            packed = translation.encode()
            table.append((super_fast_hash(text.encode()), 1, len(content), len(packed)))
            content += packed + bytes(-len(packed) % 4)
    rows = b"".join(number.to_bytes(4, "big") for row in sorted(table) for number in row)
    return content + rows + len(content).to_bytes(4, "big")


def translations(app: Path) -> dict[str, str]:
    """The .po files of an application, by what LuCI calls their languages."""
    files = sorted(app.glob("po/*/*.po"))
    return {LANGUAGES.get(file.parent.name, file.parent.name): file.read_text("utf-8") for file in files}


def texts(app: Path) -> list[str]:
    """All that can be translated, in its order."""
    found = []
    for menu in sorted(app.glob("root/usr/share/luci/menu.d/*.json")):
        found += [entry["title"] for entry in json.loads(menu.read_text("utf-8")).values()]
    for file in sorted(app.glob("htdocs/**/*.js")):
        found += [ast.literal_eval(text) for text in re.findall(r"\b_\(\s*('(?:[^'\\]|\\.)*')", file.read_text("utf-8"))]
    return list(dict.fromkeys(found))


def template(app: Path) -> str:
    """The file that a new translation begins with."""
    head = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8"\n'
    return head + "".join(f"\nmsgid {json.dumps(text)}\nmsgstr \"\"\n" for text in texts(app))


def main() -> int:
    """Write the template; name what is missing."""
    file = APP / "po/templates/mtg.pot"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(template(APP), "utf-8")
    code = 0
    for language, po in translations(APP).items():
        known = entries(po)
        for text in texts(APP):
            if not known.get(text):
                print(f"{language}: {text}")
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
