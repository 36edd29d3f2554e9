"""The server's own authority and leaf.

Without files from the operator, the coordinator has a long-lived authority of its own, shared by replicas and pinned by
agents, and each process makes itself a leaf that it renews in memory. With files, these are read again on SIGHUP and
when they change; a pair that cannot be used leaves the one in use.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from connectors.issuers.base import Order
from connectors.issuers.local import LocalIssuer, make_root, usage_oids
from coordinator.database.connection import Transaction
from coordinator.database.sealed import SealedColumn
from coordinator.files import alone_in, write_durably
from coordinator.server_tls import store
from core import certificates, keys
from core.certificates import chain_to_pem, new_serial
from core.crash import crash_point
from core.errors import Misconfigured
from core.keys import KeyAlgorithm
from core.names import Name, NameKind, parse_name

if TYPE_CHECKING:
    from coordinator.context import Context

log = structlog.get_logger()
LEAF_LIFETIME = timedelta(days=30)
_PLACE = "server_ca"
SEALED = SealedColumn("server_ca", ("only_one",), "sealed_key", lambda _row: _PLACE)
_FLOORS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass
class ServerTLS:
    """The live TLS context and what is needed to load it anew. ``authority`` is None with the operator's own files."""

    ctx: Context
    authority: LocalIssuer | None
    context: ssl.SSLContext = field(init=False)
    renew_at: datetime | None = None
    _seen: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = _FLOORS[self.ctx.settings.tls_floor]
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.num_tickets = 0  # agents keep their connections and resume none

    @property
    def root_pem(self) -> bytes:
        """Return the root that callers pin; empty with the operator's own files."""
        return certificates.to_pem(self.authority.chain[0]) if self.authority else b""

    def load(self) -> None:
        """Take the newest certificate into use for connections from now on; raise ``Misconfigured`` if it cannot be."""
        if self.authority is None:
            self._load_files()
        else:
            self._make_leaf(self.authority)

    def refresh(self) -> bool:
        """Load again when files have changed or the own leaf is due; keep what is in use when that fails."""
        due = self.renew_at is not None and self.ctx.clock.now() >= self.renew_at
        if not due and (self.authority is not None or self._file_times() == self._seen):
            return False
        return self.reload()

    def reload(self) -> bool:
        """Load again now (SIGHUP); say whether that worked."""
        try:
            self.load()
        except Misconfigured as error:
            log.error("server_certificate_not_loaded", detail=error.detail)  # noqa: TRY400 - no traceback for a bad file
            return False
        log.info("server_certificate_loaded", source="files" if self.authority is None else "own authority")
        return True

    def _load_files(self) -> None:
        settings = self.ctx.settings
        assert settings.tls_cert_path and settings.tls_key_path  # noqa: S101, PT018 - prepare() looked
        self._seen = self._file_times()
        # A trial on a context of its own: a pair that does not fit must not touch the one in use.
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for context in (trial, self.context):
            try:
                # Without a password at hand OpenSSL would ask for one on the terminal, and wait.
                context.load_cert_chain(settings.tls_cert_path, settings.tls_key_path, password="")
            except (OSError, ssl.SSLError) as error:
                names = "CERTCTL_SERVER_TLS_CERT_PATH and CERTCTL_SERVER_TLS_KEY_PATH"
                raise Misconfigured(f"{names} cannot be loaded as a pair: {error}") from error

    def _file_times(self) -> tuple[float, ...]:
        paths = [path for path in (self.ctx.settings.tls_cert_path, self.ctx.settings.tls_key_path) if path]
        return tuple(path.stat().st_mtime if path.exists() else 0.0 for path in paths)

    def _make_leaf(self, authority: LocalIssuer) -> None:
        now, key = self.ctx.clock.now(), keys.generate(KeyAlgorithm.ECDSA_P256)
        names = server_names(self.ctx.settings.url, self.ctx.settings.host)
        host = next((name.value for name in names if name.kind is NameKind.DNS), "certctl")
        order = Order(
            new_serial(),
            host,
            names,
            key.public_key(),
            now - timedelta(minutes=5),
            now + LEAF_LIFETIME,
            usage_oids(("serverAuth",)),
        )
        pem = chain_to_pem((authority.sign(order), authority.chain[0]))
        # The standard library loads pairs from files only; this one is gone again before anybody could open it.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "pair.pem")
            path.touch(mode=0o600)
            path.write_bytes(keys.to_pem(key).reveal() + pem)
            self.context.load_cert_chain(path)
        self.renew_at = now + LEAF_LIFETIME * 2 / 3


async def prepare(ctx: Context) -> ServerTLS:
    """Return the server's TLS, loaded; the own authority is made at the first start and exported to DATA_DIR/tls."""
    if ctx.settings.tls_cert_path:
        server = ServerTLS(ctx, None)
        server.load()
        return server
    server = ServerTLS(ctx, await _authority(ctx))
    server.load()
    folder = ctx.settings.data_dir / "tls"
    folder.mkdir(mode=0o700, exist_ok=True)
    with alone_in(folder):
        write_durably(folder / "ca.crt", server.root_pem, mode=0o644)
    crash_point("start.root_exported")
    return server


async def _authority(ctx: Context) -> LocalIssuer:
    async with ctx.db.transaction() as tx:
        if await store.get(tx) is None:
            made = make_root("certctl coordinator", ctx.clock.now())
            await store.insert(tx, made.chain[0], ctx.sealer.seal(keys.to_pem(made.key), _PLACE))
            crash_point("start.server_authority")
        row = await store.get(tx)
    assert row is not None  # noqa: S101 - inserted above if it was not there
    return LocalIssuer(keys.from_pem(ctx.sealer.open(row["sealed_key"], _PLACE)), (row["der"],))


async def seal_key_anew(ctx: Context, tx: Transaction) -> None:
    """Bring the own authority's key under the current encryption key, also while the operator's files are in use."""
    row = await store.get(tx)
    sealed = row and ctx.sealer.sealed_anew(row["sealed_key"], _PLACE)
    if sealed:
        await store.save_sealed_key(tx, sealed)
        crash_point("start.server_key_resealed")


def server_names(url: str, host: str) -> tuple[Name, ...]:
    """Return the names that callers may use: the public URL's, the address listened on, this host's, localhost."""
    texts = [urlsplit(url).hostname or "", host, socket.gethostname(), "localhost", "127.0.0.1", "::1"]
    found = (parse_name(text) for text in texts if text and not _any_address(text))
    return tuple(dict.fromkeys(found))


def _any_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False
