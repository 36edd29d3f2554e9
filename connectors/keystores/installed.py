"""A keystore as a file to install: its content depends on what stands there, and what is wrong has a field's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from connectors.keystores.entry import KeystoreError, WrongPassword
from connectors.targets.base import FileSpec, FileTargetConfig, parse_mode
from core.errors import InvalidInput, Refused
from core.secret import Secret

Alias = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
Encryption = Annotated[
    Literal["modern", "legacy"],
    msgspec.Meta(
        description="How PKCS#12 is encrypted. modern: AES-256 with SHA-256; legacy: 3DES with SHA-1, for old Java "
        "and other programs of before 2018."
    ),
]


def keystore_file(
    config: FileTargetConfig, path: str, password_field: str, change: Callable[[bytes | None], bytes]
) -> FileSpec:
    """Return the file at ``path`` whose content is ``change`` of what stands there, None for nothing."""

    def merge(existing: Secret[bytes] | None) -> Secret[bytes]:
        try:
            return Secret(change(existing.reveal() if existing and existing.reveal().strip() else None))
        except WrongPassword as error:
            problem = f"the keystore {path} {error}; set the right one, or move the file away"
            raise InvalidInput.of(password_field, problem) from error
        except KeystoreError as error:
            raise Refused(f"the keystore {path} {error}") from error

    return FileSpec(
        role="keystore",
        path=path,
        content=Secret(b""),
        merge=merge,
        default_mode=0o600,
        mode=parse_mode(config.key_mode),
        owner=config.owner,
        group=config.group,
    )


def check_mode(config: FileTargetConfig) -> None:
    """Raise ``ValueError`` for a mode that no file of a keystore has."""
    if config.cert_mode is not None:
        raise ValueError("cert_mode: has no meaning for a keystore, which holds the key; set key_mode")


def check_password(field: str, password: Secret[str]) -> None:
    """Raise ``ValueError`` for an empty password."""
    if not password.reveal():
        raise ValueError(f"{field}: must not be empty")
