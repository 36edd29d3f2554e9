"""Keystores by the host's own keytool, for who wants Java to write what Java reads.

Passwords are in the environment of keytool alone, never among its arguments. It works on a copy in a folder that only
the agent may enter.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from cryptography import x509

from connectors.keystores import pkcs12
from connectors.keystores.entry import DER, Entry, KeystoreError, WrongPassword
from core.secret import Secret

_PLACES = "/usr/local/bin:/usr/bin:/bin"
_JAVA = ("-J-Duser.language=en", "-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC")
_TIMEOUT_S = 60.0
_MOST_SAID = 300


class Keystore(msgspec.Struct, frozen=True):
    """A keystore's format (``PKCS12``, ``JKS``) and passwords; ``legacy``: Java encrypts as it did before 2018."""

    kind: str
    password: Secret[str]
    key_password: Secret[str]
    legacy: bool = False


def put(content: bytes | None, entry: Entry, keystore: Keystore) -> bytes:
    """Return the keystore, a new one for None, with the entry under its alias; as it was where it is there already.

    Raises ``WrongPassword`` and ``KeystoreError``. An entry with this chain is taken for this one.
    """
    with TemporaryDirectory(prefix="certctl-keytool-") as folder:
        store, source = Path(folder) / "store", Path(folder) / "entry.p12"
        if content is not None:
            store.write_bytes(content)
            if _chain(store, entry, keystore) == entry.chain:
                return content
        source.write_bytes(pkcs12.make(entry, pkcs12.Protection(keystore.password, keystore.legacy)))
        alias = entry.alias.lower()
        taken = ("-srckeystore", str(source), "-srcstoretype", "PKCS12", "-srcstorepass:env", "STORE")
        given = ("-destkeystore", str(store), "-deststoretype", keystore.kind, "-deststorepass:env", "STORE")
        key = () if keystore.kind == "PKCS12" else ("-destkeypass:env", "KEY")
        _run(keystore, "-importkeystore", "-noprompt", *taken, "-srcalias", alias, *given, "-destalias", alias, *key)
        return store.read_bytes()


def _chain(store: Path, entry: Entry, keystore: Keystore) -> tuple[bytes, ...]:
    """Return the certificates of the entry that is there, leaf first; none when there is no such entry."""
    where = ("-keystore", str(store), "-storetype", keystore.kind, "-storepass:env", "STORE")
    try:
        told = _run(keystore, "-list", "-rfc", "-alias", entry.alias.lower(), *where)
    except _NoSuchEntryError:
        return ()
    if "Entry type: PrivateKeyEntry" not in told:
        raise KeystoreError(f"holds something else than a key as {entry.alias!r}; choose another alias")
    pem = told[told.index("-----BEGIN") :].encode()
    return tuple(one.public_bytes(DER) for one in x509.load_pem_x509_certificates(pem))


class _NoSuchEntryError(Exception):
    """keytool says that there is no entry of this name."""


def _run(keystore: Keystore, *words: str) -> str:
    """Return what keytool prints; raise what it complains of."""
    program = shutil.which("keytool", path=_PLACES)
    if program is None:
        remedy = "install a Java, or leave writer out"
        raise KeystoreError(f"cannot be written by keytool: there is none in {_PLACES}; {remedy}")
    passwords = {"STORE": keystore.password.reveal(), "KEY": keystore.key_password.reveal()}
    java = (*_JAVA, *(("-J-Dkeystore.pkcs12.legacy",) if keystore.legacy else ()))
    try:
        done = subprocess.run(
            [program, *java, *words],
            env={"PATH": _PLACES, "LC_ALL": "C.UTF-8", **passwords},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise KeystoreError(f"was not finished by keytool within {_TIMEOUT_S:g} s; try again") from error
    said = " ".join((done.stdout + done.stderr).split())
    if done.returncode == 0:
        return done.stdout
    if "does not exist" in said:
        raise _NoSuchEntryError
    if "password was incorrect" in said or "password is incorrect" in said:
        raise WrongPassword("does not open with this password, or is damaged")
    raise KeystoreError(f"is refused by keytool: {said[-_MOST_SAID:]}")
