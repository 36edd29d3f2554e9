"""What the matrix needs of a client: to be told where the server is, to ask it for something, to show what it got.

A client owns one real program and a folder with its account, its keys and its certificates. It knows nothing of the
server but its ``Setting``. Whatever it cannot do is not in ``can`` or ``challenges`` and is never asked of it.
"""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

PATIENCE_S = 75.0
"""How long one command of a client may take, and how long a certificate of one that is a server is waited for."""
EMAIL = "ada@example.com"


class Challenge(StrEnum):
    """The ways to show that a name is one's own."""

    HTTP_01 = "http-01"
    DNS_01 = "dns-01"
    TLS_ALPN_01 = "tls-alpn-01"


class Feature(StrEnum):
    """What a client and a server can beyond one certificate of one name."""

    RENEW = "renew"
    REVOKE = "revoke"
    SEVERAL = "several names"
    WILDCARD = "wildcard"
    IP = "address"
    EAB = "external account"
    KEY_CHANGE = "new account key"
    ARI = "renewal information"


Spared = tuple[str, Feature | None]
"""A client by its name, with what it is not asked for; None for everything."""


class EAB(NamedTuple):
    """An external account (RFC 8555 section 7.3.4): its key id, and its key in base64url."""

    kid: str
    key: str


@dataclass(frozen=True)
class Setting:
    """All that a client is told.

    ``address`` is a loopback address of its own: the names it asks for resolve to it, and it answers challenges there,
    http-01 on ``http_port`` and tls-alpn-01 on ``tls_port``. ``dns_hook`` is a program: ``set NAME VALUE`` adds a TXT
    record, ``clear NAME`` takes all of a name away.
    """

    directory_url: str
    ca_bundle: Path
    address: str
    http_port: int
    tls_port: int
    dns_hook: Path
    eab: EAB | None = None


class ClientFailed(Exception):
    """A client ended with an error, or without what was asked for; the message holds its output."""


class Client(ABC):
    """One client with one account and one certificate."""

    name: ClassVar[str]
    can: ClassVar[frozenset[Feature]]
    challenges: ClassVar[frozenset[Challenge]]
    cannot: ClassVar[frozenset[tuple[Challenge, Feature]]] = frozenset()
    """What it can by other challenges only."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        """Write the configuration; ask for nothing."""
        self.folder = folder
        self.setting = setting

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @classmethod
    def installed(cls) -> bool:
        """Say whether it is here; what Debian and PyPI have always is."""
        return True

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return the program's own words for its version, one line."""

    @abstractmethod
    def issue(self, names: Sequence[str], challenge: Challenge) -> str:
        """Register, and get one certificate for all names; return the output, raise ``ClientFailed``."""

    def renew(self) -> str:
        """Get another certificate for the same names now, whatever its dates and the server say."""
        raise NotImplementedError

    def renew_if_told(self) -> str:
        """Renew only what the server's renewal information (RFC 9773) says is due."""
        raise NotImplementedError

    def revoke(self) -> str:
        """Revoke the certificate; its files stay."""
        raise NotImplementedError

    def change_key(self) -> str:
        """Give the account another key (RFC 8555 section 7.3.5)."""
        raise NotImplementedError

    def certificate(self) -> list[bytes]:
        """Return the chain it has on disk in DER, the leaf first; raise ``ClientFailed`` when there is none."""
        path = self.chain_path()
        if path is None or not path.exists():
            raise ClientFailed(f"{self.name} has no certificate at {path}")
        return [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(path.read_bytes())]

    @abstractmethod
    def chain_path(self) -> Path | None:
        """Return the file with leaf and chain, None while nobody knows."""

    def close(self) -> None:  # noqa: B027 - most have nothing to stop
        """Stop what it runs."""

    def command(self, *argv: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run one command in the client's folder, with nothing of this process's environment; return its output."""
        given = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        words = [str(word) for word in argv]
        try:
            done = subprocess.run(
                words,
                cwd=self.folder,
                env=given | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            output = error.output.decode(errors="replace") if isinstance(error.output, bytes) else error.output
            raise ClientFailed(f"{' '.join(words)}: not within {PATIENCE_S:.0f} s\n{output}") from error
        if done.returncode:
            raise ClientFailed(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}")
        return done.stdout

    def script(self, name: str, text: str) -> Path:
        """Write a shell script for the client to call; ``$HOOK`` is the setting's DNS hook. Return its path."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\nset -eu\nHOOK="{self.setting.dns_hook}"\n{text}')
        path.chmod(0o755)
        return path


def first_line(*argv: str) -> str:
    """Return what a program prints about its version: its first line."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]
