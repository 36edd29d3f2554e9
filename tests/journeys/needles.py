"""Looking for private keys in a heap of bytes, in whatever form they may have been written there.

A key is looked for by pieces of its secret numbers, 16 bytes at a time: raw, as hex, and as base64 in all three
alignments and both alphabets. That finds it inside of DER, PEM, JSON, a database dump or a log, also when it was cut.
Lines of PEM are looked for in the same forms, since PEM is a text that may be encoded once more; and whole documents.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

AnyKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey

_PIECE, _LEAST, _LINE = 16, 16, 64
_TEXT = re.compile(rb"[A-Za-z0-9+/_=-]{20,}")
_BREAKS = re.compile(rb"\r?\n|\\r|\\n")
_PLAIN = serialization.NoEncryption()
_FORMATS = (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL)


@dataclass(frozen=True)
class Needle:
    """One form of one piece. ``text`` says that it is made of letters and digits only."""

    what: str
    form: bytes
    text: bool


class Haystack:
    """Bytes to search; the runs of text in them are found once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        runs = _TEXT.findall(data)
        self._text = b"\n".join([*runs, *_TEXT.findall(_BREAKS.sub(b"", data))])

    def find(self, needles: list[Needle]) -> list[str]:
        """Return what was found."""
        return [needle.what for needle in needles if needle.form in (self._text if needle.text else self._data)]


def needles_of(name: str, key: AnyKey) -> list[Needle]:
    """Return every form in which a key could show; a piece of its public half alone is no needle."""
    public = _public_bytes(key)
    found = [
        *(needle for label, number in _numbers(key) for needle in _forms(f"{name} {label}", number)),
        *_documents(name, key, public),
    ]
    assert found
    return found


def _numbers(key: AnyKey) -> Iterator[tuple[str, bytes]]:
    """Give the secret numbers, big-endian as every encoding of keys has them."""
    match key:
        case ec.EllipticCurvePrivateKey():
            yield "scalar", key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8)
        case rsa.RSAPrivateKey():
            numbers = key.private_numbers()
            for label in ("d", "p", "q", "dmp1", "dmq1", "iqmp"):
                value: int = getattr(numbers, label)
                yield label, value.to_bytes((value.bit_length() + 7) // 8)
        case _:
            yield "seed", key.private_bytes_raw()


def _forms(label: str, secret: bytes, length: int = _PIECE) -> Iterator[Needle]:
    for start in range(0, len(secret), length):
        piece = secret[start : start + length]
        if len(piece) >= _LEAST:
            what = f"{label}[{start}:]"
            yield Needle(f"{what} raw", piece, text=False)
            yield Needle(f"{what} hex", piece.hex().encode(), text=True)
            yield Needle(f"{what} HEX", piece.hex().upper().encode(), text=True)
            for alignment in range(3):
                standard = inner_base64(piece, alignment)
                yield Needle(f"{what} base64/{alignment}", standard, text=True)
                yield Needle(f"{what} base64url/{alignment}", standard.translate(_URL), text=True)


_URL = bytes.maketrans(b"+/", b"-_")


def inner_base64(data: bytes, alignment: int) -> bytes:
    """Return the characters that ``data`` alone decides when ``alignment`` bytes of a group stand before it."""
    text = base64.b64encode(bytes(alignment) + data)
    return text[(0, 2, 3)[alignment] : (alignment + len(data)) * 8 // 6]


def _documents(name: str, key: AnyKey, public: bytes) -> Iterator[Needle]:
    for form in documents(key):
        if form.startswith(b"-----BEGIN"):
            for line in form.splitlines()[1:-1]:
                if base64.b64decode(line) not in public:
                    yield from _forms(f"{name} line of PEM", line, _LINE)
        else:
            yield Needle(f"{name} DER", form, text=False)
            yield Needle(f"{name} DER hex", form.hex().encode(), text=True)
            for alignment in range(3):
                yield Needle(f"{name} DER base64/{alignment}", inner_base64(form, alignment), text=True)


def documents(key: AnyKey) -> list[bytes]:
    """Return the key as PEM and DER, in every container that it has."""
    raw = isinstance(key, ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey)
    encodings = (serialization.Encoding.PEM, serialization.Encoding.DER)
    return [
        key.private_bytes(encoding, container, _PLAIN)
        for container in (_FORMATS[:1] if raw else _FORMATS)
        for encoding in encodings
    ]


def _public_bytes(key: AnyKey) -> bytes:
    der, spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(der, spki)
