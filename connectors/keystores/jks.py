"""JKS, the keystore of Java before version 9, by the library pyjks; it comes with the extra ``jks``.

All but the entry that is put stays as it is, and keys of others are not opened. The format hides keys by a scheme of
Sun's own around SHA-1, which is weak and the only one there is; JCEKS and version 1 of the format are not written.
"""

from __future__ import annotations

import jks
from jks.util import KeystoreSignatureException
from pyasn1.error import PyAsn1Error

from connectors.keystores.entry import Entry, KeystoreError, WrongPassword
from core.secret import Secret

_MAGIC = b"\xfe\xed\xfe\xed"
_UNREADABLE = (jks.util.KeystoreException, PyAsn1Error, ValueError, IndexError)
"""What pyjks raises for what it does not understand."""


def put(content: bytes | None, entry: Entry, password: Secret[str], key_password: Secret[str]) -> bytes:
    """Return the keystore, a new one for None, with the entry under its alias; as it was where it is there already.

    Raises ``WrongPassword`` and ``KeystoreError``. A key that does not open with the key password is replaced.
    """
    store = jks.KeyStore.new("jks", []) if content is None else _opened(content, password)
    for alias, old in [one for one in store.entries.items() if entry.is_named(one[0])]:
        if not isinstance(old, jks.PrivateKeyEntry):
            raise KeystoreError(f"holds a trusted certificate as {entry.alias!r}; choose another alias")
        if content and _holds(old, entry, key_password):
            return content
        del store.entries[alias]
    made = jks.PrivateKeyEntry.new(entry.alias, entry.chain, entry.key.reveal())
    made.encrypt(key_password.reveal())
    store.entries[made.alias] = made
    saved: bytes = store.saves(password.reveal())
    return saved


def _opened(content: bytes, password: Secret[str]) -> jks.KeyStore:
    if not content.startswith(_MAGIC):
        raise KeystoreError("is not JKS; convert it with keytool -importkeystore")
    try:
        return jks.KeyStore.loads(content, password.reveal(), try_decrypt_keys=False)
    except KeystoreSignatureException as error:
        raise WrongPassword("does not open with this password, or is damaged") from error
    except _UNREADABLE as error:
        raise KeystoreError(f"cannot be read ({error}); bring back a copy of it, or make it anew") from error


def _holds(old: jks.PrivateKeyEntry, entry: Entry, key_password: Secret[str]) -> bool:
    try:
        old.decrypt(key_password.reveal())
        return entry.holds(old.pkey_pkcs8, tuple(der for _, der in old.cert_chain))
    except _UNREADABLE:
        return False
