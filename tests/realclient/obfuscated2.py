"""Telegram's obfuscated2 transport: the 64-byte frame and the two AES-CTR streams that it starts.

Layout: 0..8 noise, 8..40 AES-256 key, 40..56 IV, 56..60 tag, 60..62 DC (little endian, signed), 62..64 noise.
The first 56 bytes travel in clear. The stream in the other direction takes key and IV from bytes 8..56 reversed. A
proxy's clients mix the secret's key into both: SHA-256(key material ‖ secret key).
Source: https://core.telegram.org/mtproto/mtproto-transports#transport-obfuscation
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

FRAME_SIZE = 64
PADDED_INTERMEDIATE = b"\xdd\xdd\xdd\xdd"
INTERMEDIATE = b"\xee\xee\xee\xee"
ABRIDGED = b"\xef\xef\xef\xef"
TAGS = (PADDED_INTERMEDIATE, INTERMEDIATE, ABRIDGED)

# First words that a server takes for another transport or protocol.
FORBIDDEN_WORDS = (b"HEAD", b"POST", b"GET ", b"OPTI", b"\x16\x03\x01\x02", PADDED_INTERMEDIATE, INTERMEDIATE)


class BadFrame(Exception):
    """The frame does not decrypt to a known tag."""


@dataclass
class Streams:
    """The ciphers of one end of a connection; `dc` and `tag` are those of the frame."""

    dc: int
    tag: bytes
    encrypt: CipherContext
    decrypt: CipherContext


def connect(dc: int, tag: bytes, secret_key: bytes = b"") -> tuple[bytes, Streams]:
    """The client's end: a fresh frame as it goes over the wire, and the streams after it."""
    noise = os.urandom(FRAME_SIZE)
    while noise[0] == 0xEF or noise[:4] in FORBIDDEN_WORDS or noise[4:8] == bytes(4):
        noise = os.urandom(FRAME_SIZE)
    plain = noise[:56] + tag + struct.pack("<h", dc) + noise[62:]
    encrypt, decrypt = _ciphers(plain, secret_key)
    return plain[:56] + encrypt.update(plain)[56:], Streams(dc, tag, encrypt, decrypt)


def accept(frame: bytes, secret_key: bytes = b"") -> Streams:
    """The server's end: the streams after a frame that was read from the wire."""
    decrypt, encrypt = _ciphers(frame, secret_key)
    end = decrypt.update(frame)[56:]
    if end[:4] not in TAGS:
        raise BadFrame(f"unknown tag {end[:4].hex()}")
    return Streams(struct.unpack_from("<h", end, 4)[0], end[:4], encrypt, decrypt)


def _ciphers(frame: bytes, secret_key: bytes) -> tuple[CipherContext, CipherContext]:
    """The cipher from the frame's sender, then the one to it."""
    material = frame[8:56]
    return _aes_ctr(material, secret_key), _aes_ctr(material[::-1], secret_key)


def _aes_ctr(material: bytes, secret_key: bytes) -> CipherContext:
    key = hashlib.sha256(material[:32] + secret_key).digest() if secret_key else material[:32]
    return Cipher(algorithms.AES(key), modes.CTR(material[32:48])).encryptor()
