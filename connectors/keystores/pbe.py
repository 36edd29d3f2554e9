"""Encryption and MACs by a password, as PKCS#12 files use them (RFC 7292, appendices B and C; RFC 8018, section 6.2).

For what is inside a file that others wrote: also RC2 with 40 bits, which OpenSSL 1 and Java 8 gave to certificates.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from asn1crypto import algos
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from connectors.keystores.entry import KeystoreError
from core.secret import Secret

_KEY, _IV, _MAC = 1, 2, 3
"""What is derived from a password by RFC 7292, appendix B.3."""


def mac(digest: str, data: bytes, salt: bytes, iterations: int, password: Secret[str]) -> bytes:
    """Return the MAC of a file's data; ``digest`` is a name of hashlib's."""
    key = _derived(password, salt, iterations, _MAC, hashlib.new(digest).digest_size, digest)
    return hmac.digest(key, data, digest)


def decrypt(algorithm: algos.EncryptionAlgorithm, data: bytes, password: Secret[str]) -> bytes:
    """Return what was encrypted; raise ``ValueError`` for another password, ``KeystoreError`` for an unknown cipher."""
    return _run(algorithm, data, password, forward=False)


def encrypt(algorithm: algos.EncryptionAlgorithm, data: bytes, password: Secret[str]) -> bytes:
    """Encrypt with all that ``algorithm`` says, its IV or salt included; see ``renew``."""
    return _run(algorithm, data, password, forward=True)


def renew(algorithm: algos.EncryptionAlgorithm) -> None:
    """Change what must not be used twice: the IV, or the salt that it is derived from."""
    if algorithm.kdf == "pbkdf2":
        algorithm["parameters"]["encryption_scheme"]["parameters"] = os.urandom(len(algorithm.encryption_iv))
    else:
        algorithm["parameters"]["salt"] = os.urandom(20)


def _run(algorithm: algos.EncryptionAlgorithm, data: bytes, password: Secret[str], *, forward: bool) -> bytes:
    salt, iterations, size = algorithm.kdf_salt, algorithm.kdf_iterations, algorithm.key_length
    if algorithm.kdf == "pbkdf2":
        key = hashlib.pbkdf2_hmac(algorithm.kdf_hmac, password.reveal().encode(), salt, iterations, size)
        iv = algorithm.encryption_iv
    else:
        key = _derived(password, salt, iterations, _KEY, size)
        iv = _derived(password, salt, iterations, _IV, algorithm.encryption_block_size)
    match algorithm.encryption_cipher:
        case "aes":
            return _blocks(AES(key), iv, data, forward=forward)
        case "tripledes":
            return _blocks(TripleDES(key), iv, data, forward=forward)
        case "rc2":
            return _rc2(key, iv, data, forward=forward)
        case other:
            raise KeystoreError(f"is encrypted by {other}, which is not read; convert it with keytool or openssl")


def _blocks(algorithm: AES | TripleDES, iv: bytes, data: bytes, *, forward: bool) -> bytes:
    cipher, pad = Cipher(algorithm, modes.CBC(iv)), padding.PKCS7(algorithm.block_size)
    if forward:
        padder, encryptor = pad.padder(), cipher.encryptor()
        return encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize()
    decryptor, unpadder = cipher.decryptor(), pad.unpadder()
    return unpadder.update(decryptor.update(data) + decryptor.finalize()) + unpadder.finalize()


def _rc2(key: bytes, iv: bytes, data: bytes, *, forward: bool) -> bytes:
    from Cryptodome.Cipher import ARC2  # noqa: PLC0415 - for old files alone
    from Cryptodome.Util.Padding import pad, unpad  # noqa: PLC0415 - likewise

    bits = 8 * len(key)
    cipher = ARC2.new(key, ARC2.MODE_CBC, iv, effective_keylen=bits)  # type: ignore[call-arg]  # noqa: S304 - its stub lacks it; what was chosen then
    size = ARC2.block_size
    return cipher.encrypt(pad(data, size)) if forward else unpad(cipher.decrypt(data), size)


def _derived(
    password: Secret[str], salt: bytes, iterations: int, purpose: int, size: int, digest: str = "sha1"
) -> bytes:
    """Return key material after RFC 7292, appendix B.2; its letters in the comments."""
    block = hashlib.new(digest).block_size
    text = password.reveal().encode("utf-16-be") + b"\0\0"
    mixed = _filled(salt, block) + _filled(text, block)  # I
    derived = b""
    while len(derived) < size:
        piece = bytes([purpose]) * block + mixed
        for _ in range(iterations):
            piece = hashlib.new(digest, piece).digest()  # A
        derived += piece
        added = int.from_bytes(_filled(piece, block)[:block], "big") + 1  # B
        numbers = [int.from_bytes(mixed[at : at + block], "big") for at in range(0, len(mixed), block)]
        mixed = b"".join(((number + added) % (1 << 8 * block)).to_bytes(block, "big") for number in numbers)
    return derived[:size]


def _filled(part: bytes, block: int) -> bytes:
    """Repeat a part until it fills the blocks that it begins."""
    size = -(-len(part) // block) * block
    return (part * block)[:size]
