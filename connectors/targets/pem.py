"""What connectors have in common whose daemons read PEM files: their paths, and which file holds what.

A connector derives its configuration from ``PEMConfig`` and returns ``pem_files`` from ``files``; what its daemon does
not like in a path it checks on its own. Blocks of other kinds (DH parameters) that stand in a certificate's file stay
there, after the certificates.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import anyio
import msgspec
from cryptography.hazmat.primitives import serialization

from connectors.targets.base import (
    CONFIG_MARK,
    PRIVATE_ROLES,
    FileSpec,
    FileTargetConfig,
    Material,
    Role,
    Service,
    StagedCheck,
    parse_mode,
)
from core.errors import InvalidInput, Refused
from core.secret import Secret

PATHS = ("cert_path", "key_path", "chain_path")

Part = Literal["key", "certificate", "chain"]
PARTS: tuple[Part, ...] = ("key", "certificate", "chain")
Chain = Literal["without_root", "with_root", "leaf_only"]

_BLOCK = re.compile(rb"^-----BEGIN ([^\r\n]+?)-----\s.*?^-----END \1-----", re.MULTILINE | re.DOTALL)
_OURS = re.compile(rb"CERTIFICATE$|PRIVATE KEY$")


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
    chain: Annotated[
        Chain,
        msgspec.Meta(
            description="What follows the leaf in its file: the intermediates (without_root), these and the root "
            "(with_root), or nothing (leaf_only). chain_path holds the intermediates, with_root the root as well."
        ),
    ] = "without_root"
    combined_order: Annotated[
        tuple[Part, ...],
        msgspec.Meta(description="Order of the parts of the one file of layout combined."),
    ] = PARTS
    key_format: Annotated[
        Literal["pkcs8", "traditional"],
        msgspec.Meta(description="pkcs8: PRIVATE KEY; traditional: RSA PRIVATE KEY (PKCS#1) or EC PRIVATE KEY (SEC1)."),
    ] = "pkcs8"

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        for field in PATHS:
            path = getattr(self, field)
            if path is not None and not path.startswith("/"):
                raise ValueError(f"{field}: must be an absolute path")
        if sorted(self.combined_order) != sorted(PARTS):
            raise ValueError(f"combined_order: must name each of {', '.join(PARTS)} once")
        if self.layout == "combined":
            _check_combined(self)
        elif self.key_path is None:
            raise ValueError("key_path: is required unless layout is combined")
        elif len({self.cert_path, self.key_path, self.chain_path}) < len(PATHS):
            raise ValueError("key_path: cert_path, key_path and chain_path must be different files")


def refuse_special(config: PEMConfig, special: re.Pattern[str], program: str) -> None:
    """Raise ``ValueError`` for a path that holds what the program would read as something else."""
    for field in PATHS:
        if found := special.search(getattr(config, field) or ""):
            raise ValueError(f"{field}: holds {found[0]!r}, which {program} would interpret; choose another path")


def _check_combined(config: PEMConfig) -> None:
    if config.chain_path is not None:
        raise ValueError("chain_path: has no meaning with layout combined, whose one file holds the chain; remove it")
    if config.key_path not in {None, config.cert_path}:
        raise ValueError("key_path: is the same file as cert_path with layout combined; remove it")


def pem_files(config: PEMConfig, material: Material) -> tuple[FileSpec, ...]:
    """Return the certificate, the key and, where asked for, the chain; or the one combined file, key first."""
    key, above = key_pem(config.key_format, material), chain_pem(config.chain, material)
    chain = b"" if config.chain == "leaf_only" else above
    if config.layout == "combined" or config.key_path is None:
        parts = {"key": key, "certificate": material.leaf_pem, "chain": chain}
        return (_spec(config, "combined", config.cert_path, b"".join(parts[part] for part in config.combined_order)),)
    certificate = material.leaf_pem + chain
    files = [_spec(config, "certificate", config.cert_path, certificate), _spec(config, "key", config.key_path, key)]
    if config.chain_path is not None:
        files.append(_spec(config, "chain", config.chain_path, above))
    return tuple(files)


def chain_pem(chain: Chain, material: Material) -> bytes:
    """Return the intermediates, and the root where it is asked for; raise ``InvalidInput`` where nobody knows it."""
    if chain != "with_root":
        return material.chain_pem
    if not material.root_pem:
        problem = "with_root cannot be done, as the coordinator does not know this issuer's root; choose without_root"
        raise InvalidInput.of("config.chain", problem)
    return material.chain_pem + material.root_pem


def key_pem(key_format: str, material: Material) -> bytes:
    """Return the key in this format, unencrypted; raise ``InvalidInput`` for a kind of key that has no such format."""
    if key_format == "pkcs8":
        return material.key_pem.reveal()
    key = serialization.load_pem_private_key(material.key_pem.reveal(), None)
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    try:
        return key.private_bytes(serialization.Encoding.PEM, traditional, serialization.NoEncryption())
    except ValueError as error:
        problem = "traditional exists for RSA and EC keys alone; choose pkcs8, or another key algorithm"
        raise InvalidInput.of("config.key_format", problem) from error


def keep_foreign(content: bytes, existing: Secret[bytes] | None) -> Secret[bytes]:
    """Return ``content`` and after it what else than certificates and keys stands in the existing file.

    EC parameters right before an EC key are a part of that key.
    """
    found = list(_BLOCK.finditer(existing.reveal())) if existing else []
    following = [match[1] for match in found[1:]]
    kept = [
        match[0] + b"\n"
        for match, after in zip(found, [*following, b""], strict=False)
        if not _OURS.search(match[1]) and (match[1], after) != (b"EC PARAMETERS", b"EC PRIVATE KEY")
    ]
    return Secret(content + b"".join(kept))


def pair_paths(config: PEMConfig) -> tuple[str, str]:
    """Return where certificate and key are; one path twice where one file holds both."""
    return config.cert_path, config.key_path or config.cert_path


def pair_of(files: Mapping[Role, Path]) -> tuple[str, str]:
    """Return where certificate and key are; one path twice where one file holds both."""
    certificate = files["combined"] if "combined" in files else files["certificate"]
    return str(certificate), str(files.get("key", certificate))


async def load_pairs(service: Service, staged: Sequence[Mapping[Role, Path]]) -> StagedCheck:
    """Load each staged pair with OpenSSL, for daemons whose own programs try none; raise ``Refused`` in its words.

    It is this process' OpenSSL: what only the daemon's own version or its configuration refuses is not seen.
    """
    for files in staged:
        await anyio.to_thread.run_sync(_load, service, *pair_of(files))
    return StagedCheck({}, None)


def _load(service: Service, certificate: str, key: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        said = (error.reason or "that one of them is not PEM").replace("_", " ").lower()
        raise Refused(f"{service.name} cannot load the new files: OpenSSL says {said}") from error


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
    private = role in PRIVATE_ROLES
    return FileSpec(
        role=role,
        path=path,
        content=Secret(content),
        merge=partial(keep_foreign, content) if role in {"certificate", "combined"} else None,
        default_mode=0o600 if private else 0o644,
        mode=parse_mode(config.key_mode if private else config.cert_mode),
        owner=config.owner,
        group=config.group,
    )
