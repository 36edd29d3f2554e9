"""What connectors have in common whose daemons read PEM files: their paths, and which file holds what.

A connector derives its configuration from ``PEMConfig`` and returns ``pem_files`` from ``files``; what its daemon does
not like in a path it checks on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from connectors.targets.base import (
    CONFIG_MARK,
    FileSpec,
    FileTargetConfig,
    Material,
    Role,
    parse_mode,
)
from core.secret import Secret

PATHS = ("cert_path", "key_path", "chain_path")


class PEMConfig(FileTargetConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The files of one certificate with its key."""

    cert_path: Annotated[
        str,
        msgspec.Meta(description="File with leaf and chain, the key as well with layout combined.", max_length=4000),
    ]
    key_path: Annotated[
        str | None, msgspec.Meta(description="File with the key; required unless layout is combined.")
    ] = None
    chain_path: Annotated[
        str | None, msgspec.Meta(description="File with the chain alone, where the daemon wants one.")
    ] = None

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        for field in PATHS:
            path = getattr(self, field)
            if path is not None and not path.startswith("/"):
                raise ValueError(f"{field}: must be an absolute path")
        if self.layout == "combined":
            _check_combined(self)
        elif self.key_path is None:
            raise ValueError("key_path: is required unless layout is combined")
        elif len({self.cert_path, self.key_path, self.chain_path}) < len(PATHS):
            raise ValueError("key_path: cert_path, key_path and chain_path must be different files")


def _check_combined(config: PEMConfig) -> None:
    if config.chain_path is not None:
        raise ValueError("chain_path: has no meaning with layout combined, whose one file holds the chain; remove it")
    if config.key_path not in {None, config.cert_path}:
        raise ValueError("key_path: is the same file as cert_path with layout combined; remove it")


def pem_files(config: PEMConfig, material: Material) -> tuple[FileSpec, ...]:
    """Return the certificate, the key and, where asked for, the chain; or the one combined file, key first."""
    key, chain = material.key_pem.reveal(), material.full_chain_pem
    if config.layout == "combined" or config.key_path is None:
        return (_spec(config, "combined", config.cert_path, key + chain),)
    files = [_spec(config, "certificate", config.cert_path, chain), _spec(config, "key", config.key_path, key)]
    if config.chain_path is not None:
        files.append(_spec(config, "chain", config.chain_path, material.chain_pem))
    return tuple(files)


def pair_paths(config: PEMConfig) -> tuple[str, str]:
    """Return where certificate and key are; one path twice where one file holds both."""
    return config.cert_path, config.key_path or config.cert_path


def pair_of(files: Mapping[Role, Path]) -> tuple[str, str]:
    """Return where certificate and key are; one path twice where one file holds both."""
    certificate = files["combined"] if "combined" in files else files["certificate"]
    return str(certificate), str(files.get("key", certificate))


def watched_file(config: PEMConfig, path: str, document: object, material: Material) -> FileSpec:
    """Return a YAML file of certctl's own for a daemon that watches it; each version of the certificate changes it."""
    head = CONFIG_MARK + f" for {material.fingerprint}; what is changed here is lost.\n".encode()
    content = head + msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"  # JSON is YAML
    return FileSpec(
        role="config", path=path, content=Secret(content), default_mode=0o644, owner=config.owner, group=config.group
    )


def check_watched_path(field: str, path: str) -> None:
    """Raise ``ValueError`` for a path that cannot be one of ``watched_file``."""
    if not path.startswith("/"):
        raise ValueError(f"{field}: must be an absolute path")
    if not path.endswith((".yaml", ".yml")):
        raise ValueError(f"{field}: must end in .yaml or .yml, by which the server knows how to read it")


def _spec(config: PEMConfig, role: Role, path: str, content: bytes) -> FileSpec:
    private = role in {"key", "combined"}
    return FileSpec(
        role=role,
        path=path,
        content=Secret(content),
        default_mode=0o600 if private else 0o644,
        mode=parse_mode(config.key_mode if private else config.cert_mode),
        owner=config.owner,
        group=config.group,
    )
