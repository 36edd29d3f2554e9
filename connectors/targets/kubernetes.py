"""Kubernetes: a Secret of type ``kubernetes.io/tls`` in a cluster, which Ingresses, Gateways and pods read.

``tls.crt`` holds leaf and chain, ``tls.key`` the key. Both are written in one request, by server-side apply: labels and
annotations of others stay, a field that somebody else manages is a conflict that names its manager. The API server's
own dry run tries the write before anything is changed. Which cluster, and as whom, says the host alone.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, TypeVar

import msgspec

from connectors.kubernetes import MANAGER, TLS_TYPE, Fields, ManagedFields, Secrets, Stored, connect, secret_bytes
from connectors.targets.base import Delivery, HostName, RemoteTargetConfig, Service
from core.errors import Conflict, PreconditionFailed, Refused, Transient
from core.secret import Secret

MANAGED_BY = {"app.kubernetes.io/managed-by": "certctl"}
OURS = "certctl.io/"
DEPLOYED_AT = f"{OURS}deployed-at"
_TRIES = 5
"""How often a write is tried again that somebody's change of other fields came before."""

V = TypeVar("V")

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL_VALUE = re.compile(f"({_LABEL})?")
_LABEL_KEY = re.compile(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL}")


class KubernetesConfig(RemoteTargetConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which Secret it is, and where its certificate is served."""

    namespace: Annotated[
        str,
        msgspec.Meta(
            description="Namespace of the Secret; it must exist.",
            pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
            max_length=63,
        ),
    ]
    secret_name: Annotated[
        str,
        msgspec.Meta(
            description="Name of the Secret, of type kubernetes.io/tls; made when there is none.",
            pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
            max_length=253,
        ),
    ]
    labels: Annotated[
        dict[str, str], msgspec.Meta(description="Labels that the Secret shall have beside certctl's own.")
    ] = msgspec.field(default_factory=dict)
    force_conflicts: Annotated[
        bool,
        msgspec.Meta(
            description="Take over certificate, key and labels of an existing Secret from whoever manages them now."
        ),
    ] = False
    service: Annotated[HostName, msgspec.Meta(description="Name of the cluster in the host's agent.toml.")] = (
        "kubernetes"
    )

    def __post_init__(self) -> None:
        """Refuse labels that no API server takes, and those that say what certctl alone knows."""
        for key, value in self.labels.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                problem = "must be a label of Kubernetes: [prefix/]name and value of at most 63 letters, digits, -_."
                raise ValueError(f"labels: {key[:300]!r}: {value[:100]!r} {problem}")
            if key in MANAGED_BY or key.startswith(OURS):
                raise ValueError(f"labels: {key!r} is set by certctl itself; remove it")


class Before(msgspec.Struct, frozen=True):
    """What stood there of all that a write touches, and what is written: enough to undo it, and to know when not to.

    ``fields`` is None where there was no Secret. ``owners`` are the managers of before, ``digest`` and ``new`` what
    identifies the pair of before and the new one.
    """

    fields: Fields | None
    owners: tuple[ManagedFields, ...]
    digest: str
    new: str


class KubernetesTarget:
    """Reaches Secrets."""

    config_type = KubernetesConfig

    def place(self, config: KubernetesConfig) -> str:
        """Return the Secret's name."""
        return f"{config.namespace}/{config.secret_name}"

    @asynccontextmanager
    async def reach(self, service: Service, config: KubernetesConfig) -> AsyncIterator[TLSSecret]:
        """Read the credentials: of the service's kubeconfig and its context, or of the pod that this runs in."""
        secrets = await connect(service.config, service.context, config.namespace, config.secret_name)
        with closing(secrets):
            yield TLSSecret(secrets, config)


TARGET = KubernetesTarget()


class TLSSecret:
    """One Secret, and one certificate on its way into it."""

    def __init__(self, secrets: Secrets, config: KubernetesConfig) -> None:
        self._secrets = secrets
        self._config = config
        self._wanted = Fields({}, {}, {})
        self._seen: Stored | None = None

    async def look(self, delivery: Delivery) -> Secret[bytes]:
        """Return what stands there; raise ``Refused`` for a Secret that cannot become what is wanted."""
        self._wanted = wanted_fields(self._config, delivery, datetime.now(UTC))
        self._seen = await self._secrets.read()
        if self._seen is not None:
            _check_kind(self._secrets, self._seen)
        return encode(self._before(self._seen))

    @property
    def complete(self) -> bool:
        """Say whether the Secret that was looked at is as wanted already."""
        wanted, seen = self._wanted, self._seen
        return seen is not None and (
            digest(seen.data) == digest(wanted.data)
            and wanted.labels.items() <= seen.metadata.labels.items()
            and all(
                seen.metadata.annotations.get(key) == value
                for key, value in wanted.annotations.items()
                if key != DEPLOYED_AT
            )
        )

    async def stage(self) -> None:
        """Let the API server try the write: rights, ownership, type and admission."""
        await self._write(dry_run=True)

    async def publish(self) -> None:
        """Write it, if what stood there still is what was looked at."""
        await self._write()

    async def check(self) -> None:
        """Read it back."""
        stored = await self._secrets.read()
        if stored is None or digest(stored.data) != digest(self._wanted.data):
            who = "nothing" if stored is None else f"what {stored.last_manager} wrote"
            raise Transient(f"{self._secrets}: the new certificate was written, then {who} stood there")

    async def settle(self) -> None:
        """Do nothing: nothing was kept."""

    async def put_back(self, before: Secret[bytes]) -> str:
        """Undo a write, unless somebody has changed the certificate since; return what was left alone, and why."""
        return await self._undo(decode(before))

    async def _undo(self, before: Before) -> str:
        for _ in range(_TRIES):
            stored = await self._secrets.read()
            if stored is None:
                return "" if before.fields is None else f"{self._secrets} was deleted meanwhile, and stays so"
            if digest(stored.data) == before.digest:
                return ""
            if digest(stored.data) != before.new:
                return f"{self._secrets} was changed meanwhile by {stored.last_manager}, and stays so"
            try:
                await self._put_back(stored, before)
            except PreconditionFailed:
                continue
            return ""
        raise Transient(f"{self._secrets} is changed all the time; who writes into it?")

    async def _put_back(self, stored: Stored, before: Before) -> None:
        if before.fields is None:
            await self._secrets.delete(stored)
            return
        back = await self._secrets.apply(before.fields, to=stored)
        others = {entry.identity for entry in back.metadata.managed_fields if entry.manager != MANAGER}
        if before.owners and others <= {entry.identity for entry in before.owners}:
            await self._secrets.note_owners(before.owners, to=back)

    async def _write(self, *, dry_run: bool = False) -> None:
        """Apply to what was looked at, or to a later version of it that differs only in what is not ours."""
        for _ in range(_TRIES):
            seen = self._seen
            # What came up since cannot be taken over unseen.
            force = self._config.force_conflicts and seen is not None
            try:
                await self._secrets.apply(self._wanted, to=seen, force=force, dry_run=dry_run)
                return
            except Conflict:
                if seen is not None:
                    raise
            except PreconditionFailed:
                pass
            self._seen = await self._secrets.read()
            if self._before(self._seen) != self._before(seen):
                who = f"changed by {self._seen.last_manager}" if self._seen else "deleted"
                raise Transient(f"{self._secrets} was {who} while its new certificate was on its way; it stays so")
        raise Transient(f"{self._secrets} is changed all the time; who writes into it?")

    def _before(self, stored: Stored | None) -> Before:
        new = digest(self._wanted.data)
        if stored is None:
            return Before(None, (), "", new)
        metadata, wanted, applied = stored.metadata, self._wanted, stored.applied
        in_metadata = applied.get("f:metadata", {})
        fields = Fields(
            data=_part(stored.data, wanted.data, applied.get("f:data")),
            labels=_part(metadata.labels, wanted.labels, in_metadata.get("f:labels")),
            annotations=_part(metadata.annotations, wanted.annotations, in_metadata.get("f:annotations")),
        )
        return Before(fields, () if applied else metadata.managed_fields, digest(stored.data), new)


def wanted_fields(config: KubernetesConfig, delivery: Delivery, now: datetime) -> Fields:
    """Return what certctl shall own of the Secret."""
    return Fields(
        data={"tls.crt": Secret(delivery.material.full_chain_pem), "tls.key": delivery.material.key_pem},
        labels={**config.labels, **MANAGED_BY},
        annotations={
            f"{OURS}certificate-id": delivery.certificate_id,
            f"{OURS}fingerprint": delivery.material.fingerprint,
            DEPLOYED_AT: now.astimezone(UTC).isoformat(timespec="seconds"),
        },
    )


def encode(before: Before) -> Secret[bytes]:
    """Return it as JSON, which holds the key of before."""
    return Secret(msgspec.json.encode(before, enc_hook=lambda secret: base64.b64encode(secret.reveal()).decode()))


def decode(before: Secret[bytes]) -> Before:
    """Return what ``encode`` was given."""
    return msgspec.json.decode(before.reveal(), type=Before, dec_hook=secret_bytes)


def digest(data: Mapping[str, Secret[bytes]]) -> str:
    """Return what identifies the pair in a Secret, without telling anything of it."""
    pair = [data[key].reveal() if key in data else b"" for key in ("tls.crt", "tls.key")]
    return sha256(b"".join(sha256(part).digest() for part in pair)).hexdigest()


def _part(there: Mapping[str, V], wanted: Mapping[str, V], owned: Mapping[str, object] | None) -> dict[str, V]:
    """Return of ``there`` what a write of ``wanted`` changes, adds to, or drops because it was certctl's."""
    touched = {*wanted, *(key.removeprefix("f:") for key in owned or ())}
    return {key: value for key, value in there.items() if key in touched}


def _check_kind(secrets: Secrets, stored: Stored) -> None:
    remedy = f"choose another secret_name, or delete it: kubectl -n {secrets.namespace} delete secret {secrets.name}"
    if stored.type != TLS_TYPE:
        raise Refused(f"{secrets} is of type {stored.type}, which no Secret can change to {TLS_TYPE}; {remedy}")
    if stored.immutable:
        raise Refused(f"{secrets} is immutable, so that no certificate in it can be renewed; {remedy}")
