"""Certificates as files, never with a key: one as PEM, DER or PKCS#12, many as a stream of PEM.

What is taken away is counted for each caller, by all coordinators together, and told in the audit trail.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, Literal, get_type_hints

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

from coordinator.audit import service as audit
from coordinator.certificates import queries, service, store
from coordinator.certificates.queries import CertificateQuery
from coordinator.database.driver import Record as Row
from coordinator.limits import service as limits
from coordinator.web.paging import filters_of
from coordinator.web.table import Call, NoBody, Permission, Raw, Route, Streamed, Strict
from core.certificates import chain_to_pem
from core.errors import InvalidInput, NotFound, TooManyRequests

Include = Literal["leaf", "chain", "fullchain"]
PEM = "application/pem-certificate-chain"
_TYPES = {"pem": (PEM, "pem"), "der": ("application/pkix-cert", "cer"), "pkcs12": ("application/x-pkcs12", "p12")}
_IDS = dataclasses.replace(store.LISTING, columns="id")
_HOUR = timedelta(hours=1)


class ExportQuery(Strict):
    """``include`` is what of leaf and chain; the chain has no root. ``version_id`` is the newest unless given.

    PKCS#12 has no key and no password: a trust store. DER holds one certificate, so it is the leaf's.
    """

    format: Literal["pem", "der", "pkcs12"] = "pem"
    include: Include = "fullchain"
    version_id: str | None = None


_HINTS = get_type_hints(CertificateQuery)
ExportManyQuery = msgspec.defstruct(
    "ExportManyQuery",
    [
        *((name, _HINTS[name], value) for name, value in filters_of(CertificateQuery()).items()),
        ("include", Include, "fullchain"),
    ],
    bases=(Strict,),
    namespace={"__doc__": "The filters of the certificate list, and what of each chain."},
)


async def export(call: Call[NoBody, ExportQuery]) -> Raw:
    """Return a certificate as a file."""
    certificate_id, query = call.path["certificate_id"], call.query
    if query.format == "der" and query.include == "chain":
        raise InvalidInput.of("include", "is chain, and DER holds one certificate; ask for pem")
    async with call.ctx.db.connection() as conn:
        await service.found(conn, call.actor, certificate_id)
        wanted = {"certificate_id": certificate_id}
        version_id = query.version_id or await store.newest_version(conn, certificate_id)
        row = None if version_id is None else await store.VERSIONS.get(conn, version_id, wanted)
    if row is None:
        missing = f"has no version {query.version_id}" if query.version_id else "has no version yet"
        raise NotFound(f"certificate {certificate_id} {missing}")
    chain = _part(row, query.include)
    if not chain:
        detail = f"the chain of certificate {certificate_id} is empty: its issuer is a root, or is not known here"
        raise NotFound(detail)
    await _take(call, certificate_id, {"version_id": version_id, "format": query.format, "include": query.include})
    content_type, ending = _TYPES[query.format]
    disposition = f'attachment; filename="{certificate_id}.{ending}"'
    return Raw(_encoded(query.format, chain), content_type, {"Content-Disposition": disposition})


def _part(row: Row, include: Include) -> tuple[bytes, ...]:
    return {"leaf": (row["der"],), "chain": tuple(row["issuers"]), "fullchain": (row["der"], *row["issuers"])}[include]


def _encoded(form: str, chain: tuple[bytes, ...]) -> bytes:
    if form == "pem":
        return chain_to_pem(chain)
    if form == "der":
        return chain[0]
    certificates = [x509.load_der_x509_certificate(der) for der in chain]
    held = [pkcs12.PKCS12Certificate(each, each.subject.rfc4514_string().encode()) for each in certificates]
    return pkcs12.serialize_java_truststore(held, NoEncryption())


async def export_many(call: Call[NoBody, Any]) -> Streamed:
    """Return the newest certificates of all that match, one PEM after another, each under its id."""
    given = msgspec.structs.asdict(call.query)
    include = given.pop("include")
    query = CertificateQuery(**given)
    wanted = {**filters_of(query), **queries.conditions(query, call.ctx.clock.now())}
    told = {name: value for name, value in given.items() if value not in (None, False)}
    await _take(call, "", {"include": include, "filter": [f"{name}={value}" for name, value in told.items()]})
    return Streamed(_pieces(call, wanted, include), PEM)


async def _pieces(call: Call[NoBody, Any], wanted: Mapping[str, Any], include: Include) -> AsyncIterator[bytes]:
    async with call.ctx.db.connection() as conn:
        async for rows in _IDS.stream(conn, _IDS.default_order, wanted, call.actor.scope):
            versions = await store.newest_versions(conn, [row["id"] for row in rows])
            for row in versions:
                yield f"# {row['certificate_id']}\n".encode() + chain_to_pem(_part(row, include))


async def _take(call: Call[Any, Any], certificate_id: str, details: Mapping[str, object]) -> None:
    """Count an export and tell of it; raise ``TooManyRequests`` when the caller has had as many as there are."""
    async with call.ctx.db.transaction() as tx:
        most = call.ctx.settings.exports_per_hour
        await limits.take(tx, "certificate exports", str(call.actor), most, _HOUR)
        await audit.record(
            tx, call.actor, "certificate.exported", "certificate", certificate_id, details, call.request_id
        )


_READ = Permission.READ
ROUTES = [
    Route(
        "GET",
        "/api/v1/certificates/export",
        export_many,
        _READ,
        "Export many as PEM",
        None,
        query=ExportManyQuery,
        errors=(TooManyRequests,),
        content_type=PEM,
    ),
    Route(
        "GET",
        "/api/v1/certificates/{certificate_id}/export",
        export,
        _READ,
        "Export as a file",
        None,
        query=ExportQuery,
        errors=(NotFound, TooManyRequests),
        content_type=PEM,
        other_content_types=tuple(kind for kind, _ in _TYPES.values() if kind != PEM),
    ),
]
