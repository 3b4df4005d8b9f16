"""Manual pages: the Markdown of image/man/ as roff, for man-db's and mandoc's `man` alike.

No Markdown in general: what our pages use, and a fault for everything else, so that nothing comes out wrong in silence.
That is `# mtg(1): what it is`, `##` and `###`, paragraphs, lists with `-`, indented or fenced text as it stands, tables,
`code`, *words to fill in*, **strong words** and [links](of a page).
"""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Iterator

from packing import ROOT, File, source_date_epoch, version

PAGES = ROOT / "image/man"
# A table whose last column says what the first means is too wide for a terminal; it becomes a list.
MEANING = "meaning"
# What a terminal of 80 columns leaves of a line, and how far the columns of a table are apart.
LINE, APART = 71, (3, 2, 1)
# How long a line of the source may be.
SOURCE_LINE = 78
INLINE = re.compile(r"\\([*|])|`([^`]+)`|\*\*(.+?)\*\*|\*(.+?)\*|\[([^\]]+)\]\(([^)\s]+)\)")
PAGE = re.compile(r"([a-z.]+)\((\d)\)")


def pages() -> list[File]:
    """All of them, each with its place below `man/`."""
    out = []
    for source in sorted(PAGES.glob("*.md")):
        name = source.stem
        out.append(File(f"man{name[-1]}/{name}", page(source.read_text("utf-8"), version(), source_date_epoch()).encode("ascii")))
    return out


def page(markdown: str, of_version: str, epoch: int) -> str:
    """One page; `epoch` is its date."""
    markdown = re.sub(r"(?m)^<!-- .* -->\n", "", markdown)
    first, _, rest = markdown.partition("\n")
    title = re.fullmatch(r"# (\S+)\((\d)\): (.+)", first)
    if not title:
        raise ValueError(f"the first line is no title: {first}")
    name, section, about = title.groups()
    date = time.strftime("%Y-%m-%d", time.gmtime(epoch))
    out = ["'\\\" t", f'.TH {name.upper()} {section} {date} "mtg {of_version}"', ".ad l", ".nh"]
    out += [".SH NAME", f"{_text(name)} \\- {_text(about)}"]
    for block in _blocks(rest):
        lines = _block(block)
        # A heading begins a paragraph.
        out += lines[1:] if lines[0] == ".PP" and out[-1].startswith((".SH", ".SS")) else lines
    return "\n".join(out) + "\n"


def _blocks(markdown: str) -> Iterator[list[str]]:
    """Parts between blank lines; fenced text is one part."""
    block: list[str] = []
    is_fenced = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            if block and not is_fenced:
                yield block
                block = []
            block.append("```")
            is_fenced = not is_fenced
            if not is_fenced:
                yield block
                block = []
        elif line.strip() or is_fenced:
            block.append(line)
        elif block:
            yield block
            block = []
    if is_fenced:
        raise ValueError("text that is fenced in has no end")
    if block:
        yield block


def _block(lines: list[str]) -> list[str]:
    first = lines[0]
    if heading := re.fullmatch(r"(##|###) (.+)", first):
        if len(lines) > 1:
            raise ValueError(f"a heading stands alone: {first}")
        return [f".SH {_text(heading[2].upper())}" if heading[1] == "##" else f".SS {_text(heading[2])}"]
    if first == "```":
        return [".PP", ".RS 4", ".nf", *(_line(_plain(line)) for line in lines[1:-1]), ".fi", ".RE"]
    if first.startswith("|"):
        return _table([[cell.strip() for cell in line.strip("|").split("|")] for line in lines])
    if first.startswith("- "):
        items = re.split(r"(?m)^- ", "\n".join(lines))[1:]
        return [line for item in items for line in (".IP \\(bu 2", *_filled(item))]
    if re.match(r"[#>+]|\d+\. |~~~|\s", first):
        raise ValueError(f"no Markdown that manual pages have: {first}")
    return [".PP", *_filled(" ".join(lines))]


def _table(rows: list[list[str]]) -> list[str]:
    head, rule, *rows = rows
    if not all(re.fullmatch(":?-+:?", cell) for cell in rule) or any(len(row) != len(head) for row in rows):
        raise ValueError(f"a table that is none: {head}")
    if head[-1] == MEANING:
        return [line for row in rows for line in _meaning(head, row)]
    columns = list(zip(*([head] if any(head) else []), *rows, strict=True))
    apart, widths = _widths(columns)
    out = [".PP", ".TS", f"{f' {apart} '.join(f'lw({width}n)' for width in widths)}."]
    for cells in zip(*columns, strict=True):
        texts = [_text(cell) for cell in cells]
        fits = [len(_shown(cell)) <= width for cell, width in zip(cells, widths, strict=True)]
        out.append("\t".join(_line(text) if fit else "\n".join(["T{", *_wrapped(text), "T}"]) for text, fit in zip(texts, fits, strict=True)))
    return [*out, ".TE"]


def _widths(columns: list[tuple[str, ...]]) -> tuple[int, list[int]]:
    """How far apart and how wide the columns are: headings are broken into lines first, other cells if that is not enough."""
    words = [max((len(word) for cell in column for word in _shown(cell).split()), default=1) for column in columns]
    bodies = [max([word, *(len(_shown(cell)) for cell in column[1:])]) for column, word in zip(columns, words, strict=True)]
    widths = [max(body, len(_shown(column[0]))) for column, body in zip(columns, bodies, strict=True)]
    for apart in APART:
        room = LINE - apart * (len(columns) - 1)
        if sum(words) > room:
            continue
        for floors in (bodies, words):
            while sum(widths) > room and widths != floors:
                wide = max((width, at) for at, width in enumerate(widths) if width > floors[at])[1]
                widths[wide] -= 1
        return apart, widths
    raise ValueError(f"a table too wide for a terminal: {[column[0] for column in columns]}")


def _shown(markdown: str) -> str:
    """What is seen of a line."""
    return INLINE.sub(lambda found: next(filter(None, found.groups())), markdown)


def _meaning(head: list[str], row: list[str]) -> list[str]:
    first = row[-1].partition(" ")[0]
    # A value that is named is no beginning of a sentence.
    sentence = first.capitalize() + row[-1][len(first) :] if first.isalpha() and first.islower() else row[-1]
    out = [".TP", f".B {_plain(_shown(row[0]))}", *_filled(f"{sentence}.")]
    said = [f"{name}: {cell}" for name, cell in zip(head[1:-1], row[1:-1], strict=True) if cell]
    return [*out, ".br", *_wrapped(_text("; ".join(said)))] if said else out


def _filled(text: str) -> list[str]:
    """A line or more for each sentence, as the formatters want it."""
    sentences = re.split(r"(?<=[.?!:]) (?=[A-Z`*])", " ".join(text.split()))
    return [line for sentence in sentences for line in _wrapped(_text(sentence))]


def _wrapped(text: str) -> list[str]:
    lines = textwrap.wrap(text, SOURCE_LINE, break_long_words=False, break_on_hyphens=False)
    return [_line(line) for line in lines]


def _text(markdown: str) -> str:
    """A line's code, emphasis and links."""
    out, at = "", 0
    for found in INLINE.finditer(markdown):
        out += _plain(markdown[at : found.start()])
        escaped, code, strong, emphasis, words, target = found.groups()
        at = found.end()
        if escaped:
            out += escaped
        elif code or strong:
            out += f"\\fB{_plain(code) if code else _text(strong)}\\fR"
        elif emphasis:
            out += f"\\fI{_text(emphasis)}\\fR"
        elif of_page := PAGE.fullmatch(words):
            out += f"\\fB{of_page[1]}\\fR({of_page[2]})"
        else:
            out += f"{_text(words)} (\\fI{_plain(target)}\\fR)" if "://" in target else _text(words)
    return out + _plain(markdown[at:])


def _plain(text: str) -> str:
    """What roff prints as it stands."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha").replace("`", "\\(ga")
    text = text.replace("'", "\\(aq").replace('"', "\\(dq")
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)


def _line(text: str) -> str:
    """No request, whatever it begins with."""
    return f"\\&{text}" if text.startswith((".", "'")) else text
