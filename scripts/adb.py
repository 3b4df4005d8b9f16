"""The file format of apk-tools 3: a database of typed values, with signatures and contents of files behind it.

For scripts/apk. Everything is little-endian. A database is a header of 8 bytes and values; a value is a u32 with a type
in the upper 4 bits and a number, or an offset from the header's first byte, in the others.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packing import smallest_gz

NULL = 0
INT, INT_32, INT_64 = 0x1, 0x2, 0x3
BYTES_8, BYTES_16, BYTES_32 = 0x8, 0x9, 0xA
ARRAY, OBJECT = 0xD, 0xE
ADB, SIG, DATA = 0, 1, 2
HEADER = struct.Struct("<BBHI")
HASH_AND_VERSION = b"\x00\x04"
KEY_ID_LEN = 16
UNIQUE_ID_LEN = 20
GZIP_HEADER, GZIP_TRAILER = 10, 8


class Database:
    """A database that is being written: children before their parents, equal values once."""

    def __init__(self) -> None:
        self._content = bytearray(HEADER.size)
        self._known: dict[tuple[int, bytes], int] = {}
        self._unique_at: int | None = None

    def number(self, number: int) -> int:
        """An integer."""
        if number < 1 << 28:
            return INT << 28 | number
        if number < 1 << 32:
            return self._place(INT_32, struct.pack("<I", number), 4)
        return self._place(INT_64, struct.pack("<Q", number), 4)

    def text(self, text: str) -> int:
        """A string; the empty one is no value at all."""
        return self.bytes(text.encode())

    def bytes(self, content: bytes) -> int:
        """A string of bytes."""
        if not content:
            return NULL
        if len(content) < 1 << 8:
            return self._place(BYTES_8, struct.pack("<B", len(content)) + content, 1)
        if len(content) < 1 << 16:
            return self._place(BYTES_16, struct.pack("<H", len(content)) + content, 2)
        return self._place(BYTES_32, struct.pack("<I", len(content)) + content, 4)

    def unique_id(self) -> int:
        """20 bytes that `finish` fills in, from all others."""
        value = self._append(BYTES_8, struct.pack("<B", UNIQUE_ID_LEN) + bytes(UNIQUE_ID_LEN), 1)
        self._unique_at = (value & 0x0FFF_FFFF) + 1
        return value

    def array(self, values: Sequence[int]) -> int:
        """A list; the empty one is no value at all."""
        return self._place(ARRAY, struct.pack(f"<{len(values) + 1}I", len(values) + 1, *values), 4) if values else NULL

    def object(self, fields: dict[int, int]) -> int:
        """Fields by their numbers, from 1."""
        fields = {number: value for number, value in fields.items() if value != NULL}
        if not fields:
            return NULL
        values = [fields.get(number, NULL) for number in range(1, max(fields) + 1)]
        return self._place(OBJECT, struct.pack(f"<{len(values) + 1}I", len(values) + 1, *values), 4)

    def finish(self, root: int) -> bytes:
        """The whole database."""
        HEADER.pack_into(self._content, 0, 0, 0, 0, root)
        if self._unique_at is not None:
            unique = hashlib.sha256(self._content).digest()[:UNIQUE_ID_LEN]
            self._content[self._unique_at : self._unique_at + UNIQUE_ID_LEN] = unique
        return bytes(self._content)

    def _place(self, kind: int, stored: bytes, alignment: int) -> int:
        key = (kind, stored)
        if key not in self._known:
            self._known[key] = self._append(kind, stored, alignment)
        return self._known[key]

    def _append(self, kind: int, stored: bytes, alignment: int) -> int:
        self._content += bytes(-len(self._content) % alignment)
        offset = len(self._content)
        self._content += stored
        return kind << 28 | offset


@dataclass(frozen=True)
class Key:
    """A private key on the curve prime256v1, in a file of openssl's."""

    path: Path

    def signature(self, schema: bytes, database: bytes) -> bytes:
        """The payload of a SIG block."""
        point = _openssl(["ec", "-in", str(self.path), "-pubout", "-outform", "DER"])[-65:]
        head = HASH_AND_VERSION + hashlib.sha512(point).digest()[:KEY_ID_LEN]
        signed = schema + head + hashlib.sha512(database).digest()
        return head + _openssl(["dgst", "-sha512", "-sign", str(self.path)], signed)

    def public(self) -> bytes:
        """What a router needs in /etc/apk/keys."""
        return _openssl(["ec", "-in", str(self.path), "-pubout"])


def container(schema: bytes, database: bytes, key: Key | None, contents: Sequence[bytes] = ()) -> bytes:
    """The file: compressed blocks. `contents` are payloads of DATA blocks."""
    head = b"ADB." + schema + _block(ADB, database)
    if key:
        head += _block(SIG, key.signature(schema, database))
    tail = b"".join(_block(DATA, content) for content in contents)
    # The packages of several architectures differ in the head only, and the good compression of the tail takes seconds.
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(head)
    if not tail:
        return b"ADBd" + packed + deflate.flush()
    packed += deflate.flush(zlib.Z_SYNC_FLUSH)
    return b"ADBd" + packed + smallest_gz(tail)[GZIP_HEADER:-GZIP_TRAILER]


def _block(kind: int, payload: bytes) -> bytes:
    block = struct.pack("<I", kind << 30 | len(payload) + 4) + payload
    return block + bytes(-len(block) % 8)


def _openssl(arguments: list[str], content: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=content, check=True, capture_output=True).stdout
