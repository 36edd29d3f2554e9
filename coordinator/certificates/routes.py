"""Certificates: list, get, create, versions, renew."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec

from coordinator.certificates import service, store
from coordinator.certificates.status import Status
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.profiles.service import Lifetime
from coordinator.web.paging import Page, PageQuery, Shape, read_page
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.certificates import chain_to_pem
from core.errors import Conflict, NotFound, Refused
from core.keys import KeyAlgorithm

if TYPE_CHECKING:
    from coordinator.context import Context

Short = Annotated[str, msgspec.Meta(max_length=128)]


class Certificate(msgspec.Struct):
    """What is wanted and how it stands; ``status`` has two axes, life and service."""

    id: str
    name: str
    common_name: str
    sans: list[str]
    profile_id: str
    issuer_id: str
    renewal_policy_id: str
    owner_id: str
    team_id: str
    environment: str
    tags: dict[str, str]
    key_algorithm: str
    lifetime_s: int
    created_at: datetime
    updated_at: datetime
    status: Status


class CreateCertificate(Strict):
    """Only ``common_name`` is needed. With ``target_ids`` or ``agent_id`` the issuance starts at once."""

    common_name: str
    sans: tuple[str, ...] = ()
    id: str | None = None
    name: Short = ""
    profile_id: str = "prof-default"
    issuer_id: str | None = None
    renewal_policy_id: str = "rp-default"
    owner_id: str = "default"
    team_id: str = "default"
    environment: Short = ""
    tags: dict[Short, Annotated[str, msgspec.Meta(max_length=1000)]] = msgspec.field(default_factory=dict)
    key_algorithm: KeyAlgorithm | None = None
    lifetime_s: Lifetime | None = None
    target_ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=500)] = ()
    agent_id: str | None = None


class Created(msgspec.Struct):
    """A new certificate and the jobs that its issuance started with; the first one's id names the run to follow."""

    certificate: Certificate
    job_ids: list[str]


class Renewal(msgspec.Struct):
    """The issuance jobs of a renewal; ``run_id`` is what to follow."""

    certificate_id: str
    job_ids: list[str]
    run_id: str


class Version(msgspec.Struct):
    """One issued certificate; ``pem`` is leaf first, without the root."""

    id: str
    certificate_id: str
    generation: int
    holder: str
    issuer_id: str
    serial: str
    fingerprint: str
    spki_sha256: str
    key_algorithm: str
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None
    created_at: datetime
    pem: str


class CertificateQuery(PageQuery):
    """Filters of the certificate list."""

    common_name: str | None = None
    environment: str | None = None
    agent_id: str | None = None


def _shape(row: Row, status: Status) -> Certificate:
    fields = {name: row[name] for name in Certificate.__struct_fields__ if name not in {"sans", "status"}}
    return Certificate(**fields, sans=[name["value"] for name in row["names"]], status=status)


def _version(row: Row) -> Version:
    fields = {name: row[name] for name in Version.__struct_fields__ if name != "pem"}
    return Version(**fields, pem=chain_to_pem((row["der"], *row["issuers"])).decode())


async def list_certificates(call: Call[NoBody, CertificateQuery]) -> Page[Certificate] | Streamed:
    """List certificates, newest first."""
    return await read_page(call, store.LISTING, Certificate, _shapes(call.ctx))


def _shapes(ctx: Context) -> Shape[Certificate]:
    async def shape(conn: Connection, rows: Sequence[Row]) -> list[Certificate]:
        stand = await service.statuses(ctx, conn, [row["id"] for row in rows])
        return [_shape(row, stand[row["id"]]) for row in rows]

    return shape


async def get(call: Call[NoBody, NoQuery]) -> Certificate:
    """Return one certificate."""
    async with call.ctx.db.connection() as conn:
        return await _get(call.ctx, conn, call.path["certificate_id"])


async def _get(ctx: Context, conn: Connection, certificate_id: str) -> Certificate:
    row = await store.get(conn, certificate_id)
    if row is None:
        detail = f"there is no certificate {certificate_id}"
        raise NotFound(detail)
    stand = await service.statuses(ctx, conn, [certificate_id])
    return _shape(row, stand[certificate_id])


async def create(call: Call[CreateCertificate, NoQuery]) -> Created:
    """Take a certificate into the inventory."""
    wish = msgspec.convert(msgspec.to_builtins(call.body), service.Wish)
    certificate_id, job_ids = await service.create(call.tx, call.actor, wish, call.request_id)
    return Created(await _get(call.ctx, call.tx, certificate_id), job_ids)


async def _versions(_conn: Connection, rows: Sequence[Row]) -> list[Version]:
    return [_version(row) for row in rows]


async def list_versions(call: Call[NoBody, PageQuery]) -> Page[Version] | Streamed:
    """List what was issued, newest first."""
    certificate_id = call.path["certificate_id"]
    async with call.ctx.db.connection() as conn:
        if await store.get(conn, certificate_id) is None:
            detail = f"there is no certificate {certificate_id}"
            raise NotFound(detail)
    return await read_page(call, store.VERSIONS, Version, _versions, certificate_id=certificate_id)


async def renew(call: Call[NoBody, NoQuery]) -> Renewal:
    """Renew now."""
    certificate_id = call.path["certificate_id"]
    job_ids = await service.renew(call.tx, call.actor, certificate_id, call.request_id)
    return Renewal(certificate_id, job_ids, await service.run_of(call.tx, job_ids[0]))


_ONE = "/api/v1/certificates/{certificate_id}"

ROUTES = [
    Route(
        "GET",
        "/api/v1/certificates",
        list_certificates,
        Permission.READ,
        "List certificates",
        Page[Certificate],
        query=CertificateQuery,
    ),
    Route(
        "POST",
        "/api/v1/certificates",
        create,
        Permission.CERTIFICATES_WRITE,
        "Add a certificate",
        Created,
        request=CreateCertificate,
        status=201,
        errors=(Conflict, Refused),
    ),
    Route("GET", _ONE, get, Permission.READ, "Get a certificate", Certificate, errors=(NotFound,)),
    Route(
        "GET",
        f"{_ONE}/versions",
        list_versions,
        Permission.READ,
        "List issued versions",
        Page[Version],
        query=PageQuery,
        errors=(NotFound,),
    ),
    Route(
        "POST",
        f"{_ONE}/renew",
        renew,
        Permission.CERTIFICATES_WRITE,
        "Renew now",
        Renewal,
        status=202,
        errors=(NotFound, Conflict),
    ),
]
