"""Certificates: list, get, create, change, archive, renew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from coordinator.certificates import queries, revocation, service, store, wishes
from coordinator.certificates.queries import CertificateQuery
from coordinator.certificates.service import Caller
from coordinator.certificates.views import (
    Certificate,
    CertificateBody,
    Changed,
    CreateCertificate,
    Deploy,
    PatchCertificate,
    Renewal,
    Revocation,
    Revoke,
    Sent,
)
from coordinator.context import Context
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.web import etag
from coordinator.web.paging import Page, Shape, read_page
from coordinator.web.resource import merged
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import Conflict, InvalidInput, NotFound, PreconditionFailed, Refused

_OWN = {"sans", "target_ids", "status"}
"""Fields of the answer that are not columns of the row."""


class ArchiveQuery(Strict):
    """``force`` archives what is still served."""

    force: bool = False


def _shape(row: Row, now: datetime) -> Certificate:
    status = service.status_of(row, now)
    fields = {name: row[name] for name in Certificate.__struct_fields__ if name not in _OWN}
    target_ids = [binding.target_id for binding in status.bindings]
    sans = [name["value"] for name in row["names"]]
    return Certificate(**fields, sans=sans, target_ids=target_ids, status=status)


async def list_certificates(call: Call[NoBody, CertificateQuery]) -> Page[Certificate] | Streamed:
    """List certificates, newest first; archived ones only with ``archived``."""
    conditions = queries.conditions(call.query, call.ctx.clock.now())
    return await read_page(call, store.LISTING, Certificate, _shapes(call.ctx), **conditions)


def _shapes(ctx: Context) -> Shape[Certificate]:
    async def shape(_conn: Connection, rows: Sequence[Row]) -> list[Certificate]:
        now = ctx.clock.now()
        return [_shape(row, now) for row in rows]

    return shape


async def get(call: Call[NoBody, NoQuery]) -> Certificate:
    """Return one certificate; its ETag is its revision."""
    async with call.ctx.db.connection() as conn:
        return await _one(call, conn, _id(call))


async def _one(call: Call[Any, Any], conn: Connection, certificate_id: str) -> Certificate:
    return _shape(await service.shown(conn, call.actor, certificate_id), call.ctx.clock.now())


async def create(call: Call[CreateCertificate, NoQuery]) -> Changed:
    """Take a certificate into the inventory."""
    row, job_ids = await service.create(call.tx, _caller(call), call.body, call.body.id)
    return Changed(_shape(row, call.ctx.clock.now()), job_ids)


async def replace(call: Call[CertificateBody, NoQuery]) -> Changed:
    """Replace what is wanted; what is left out takes its default again.

    A change of names, key, lifetime, profile or issuer starts a new issuance. A target that is left out is left alone
    from then on: it keeps what it serves, and its deployments are cancelled.
    """

    async def body_of(_tx: Transaction, row: Row) -> CertificateBody:
        service.check_live(row)
        return call.body

    return await _change(call, body_of)


async def merge(call: Call[Any, NoQuery]) -> Changed:
    """Change the named fields (RFC 7396), as a replacement of the whole by the result would."""
    patch = call.body

    async def body_of(tx: Transaction, row: Row) -> CertificateBody:
        if patch.archived is True:
            raise InvalidInput.of("archived", "is set by DELETE, which says what stands in the way")
        if patch.archived is msgspec.UNSET:
            service.check_live(row)
        fields = wishes.present(row, await service.target_ids(tx, row["id"]))
        return merged(CertificateBody, fields, msgspec.structs.replace(patch, archived=msgspec.UNSET))

    return await _change(call, body_of)


async def _change(call: Call[Any, Any], body_of: Callable[[Transaction, Row], Any]) -> Changed:
    async with call.ctx.db.transaction() as tx:
        before = await service.locked(tx, call.actor, _id(call))
        etag.check(call, before)
        job_ids = await service.change(call.ctx, tx, _caller(call), before, await body_of(tx, before))
        return Changed(await _one(call, tx, before["id"]), job_ids)


async def archive(call: Call[NoBody, ArchiveQuery]) -> None:
    """Archive a certificate: its bindings and jobs end and it is not renewed. Versions and history stay.

    Refused while targets serve it, unless ``force`` is given.
    """
    async with call.ctx.db.transaction() as tx:
        row = await service.locked(tx, call.actor, _id(call))
        etag.check(call, row)
        if row["archived_at"] is None:
            await service.archive(call.ctx, tx, _caller(call), row, force=call.query.force)


async def renew(call: Call[NoBody, NoQuery]) -> Renewal:
    """Renew now, or have the client that holds it do so: then there is no job to follow."""
    row = await service.locked(call.tx, call.actor, _id(call))
    job_ids = await service.renew(call.ctx, call.tx, _caller(call), row)
    run_id = await service.run_of(call.tx, job_ids[0]) if job_ids else None
    return Renewal(row["id"], job_ids, run_id)


async def deploy(call: Call[Deploy, NoQuery]) -> Sent:
    """Send the targets again what they should serve, also where they are seen to serve it."""
    row = await service.locked(call.tx, call.actor, _id(call))
    return Sent(row["id"], await service.deploy(call.tx, _caller(call), row, call.body.target_id))


async def revoke(call: Call[Revoke, NoQuery]) -> Revocation:
    """Revoke every version that has not expired; unless it is not wanted any more, it is renewed with new keys."""
    row, body = await service.locked(call.tx, call.actor, _id(call)), call.body
    done = await revocation.revoke(call.ctx, call.tx, _caller(call), row, body.reason, renew=body.renew)
    return Revocation(row["id"], body.reason, done.version_ids, done.job_ids)


def _id(call: Call[Any, Any]) -> str:
    return call.path["certificate_id"]


def _caller(call: Call[Any, Any]) -> Caller:
    return Caller(call.actor, call.request_id)


_ALL = "/api/v1/certificates"
_ONE = "/api/v1/certificates/{certificate_id}"
_WRITE = Permission.CERTIFICATES_WRITE
_CHANGES = (NotFound, PreconditionFailed, Conflict, Refused)

ROUTES = [
    Route(
        "GET",
        _ALL,
        list_certificates,
        Permission.READ,
        "List certificates",
        Page[Certificate],
        query=CertificateQuery,
        listing=store.LISTING,
    ),
    Route(
        "POST",
        _ALL,
        create,
        _WRITE,
        "Add a certificate",
        Changed,
        request=CreateCertificate,
        status=201,
        errors=(Conflict, Refused),
    ),
    Route("GET", _ONE, get, Permission.READ, "Get a certificate", Certificate, errors=(NotFound,)),
    Route("PUT", _ONE, replace, _WRITE, "Replace a certificate", Changed, request=CertificateBody, errors=_CHANGES),
    Route(
        "PATCH",
        _ONE,
        merge,
        _WRITE,
        "Change parts of a certificate",
        Changed,
        request=PatchCertificate,
        errors=_CHANGES,
    ),
    Route(
        "DELETE",
        _ONE,
        archive,
        _WRITE,
        "Archive a certificate",
        None,
        query=ArchiveQuery,
        status=204,
        errors=(NotFound, PreconditionFailed, Conflict),
    ),
    Route("POST", f"{_ONE}/renew", renew, _WRITE, "Renew now", Renewal, status=202, errors=(NotFound, Conflict)),
    Route(
        "POST",
        f"{_ONE}/deploy",
        deploy,
        _WRITE,
        "Send again what is to be served",
        Sent,
        request=Deploy,
        status=202,
        errors=(NotFound, Conflict),
    ),
    Route(
        "POST",
        f"{_ONE}/revoke",
        revoke,
        _WRITE,
        "Revoke what was issued",
        Revocation,
        request=Revoke,
        status=202,
        errors=(NotFound, Conflict),
    ),
]
