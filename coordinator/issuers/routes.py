"""Issuers for operators; issuing certificates and CRLs for relying parties (RFC 5280 sections 4.2.1.13 and 4.2.2.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from connectors.issuers import registry
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.issuers import editing, service, store
from coordinator.issuers.editing import IssuerBody, NewKey, Tried
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.resource import body_with_id, merged, patch_of
from coordinator.web.table import Access, Call, NoBody, NoQuery, Permission, Raw, Route, Streamed
from core import marking
from core.certificates import chain_to_pem, fingerprint, read_authority
from core.errors import Conflict, NotFound, PreconditionFailed, Refused
from core.ids import check_chosen, new_id

_CERTIFICATE, _LIST = "application/pkix-cert", "application/pkix-crl"


class IssuerKey(msgspec.Struct):
    """A key of an authority. ``ski`` names it in URLs; ``pem`` is its certificate and those above it, a root included.

    New certificates are signed by the current one. The others go on serving their CRLs.
    """

    ski: str
    subject: str
    key_algorithm: str
    path_length: int | None
    not_before: datetime
    not_after: datetime
    is_current: bool
    created_at: datetime
    pem: str


class IssuerKeys(msgspec.Struct):
    """All keys of an issuer, the current one first."""

    data: list[IssuerKey]
    total: int


class Issuer(msgspec.Struct):
    """A certificate authority with its current ``key``; ``config`` says how its next one is made."""

    id: str
    name: str
    type: str
    config: dict[str, Any]
    enabled: bool
    parent_issuer_id: str | None
    key: IssuerKey | None
    revision: int
    created_at: datetime
    updated_at: datetime


class IssuerType(msgspec.Struct):
    """A kind of issuer. ``schema`` is the JSON schema of its ``config``; ``secret_fields`` are paths into that."""

    type: str
    description: str
    secret_fields: list[str]
    schema: dict[str, Any]


class IssuerTypes(msgspec.Struct):
    """All kinds of issuers."""

    data: list[IssuerType]
    total: int


class IssuerQuery(PageQuery):
    """Filters of the issuer list; ``q`` is looked for in id and name."""

    name: str | None = None
    type: str | None = None
    enabled: bool | None = None
    parent_issuer_id: str | None = None
    q: str | None = None


CreateIssuer = body_with_id(IssuerBody, "CreateIssuer", "iss")
IssuerPatch = patch_of(IssuerBody)


async def _shape(conn: Connection, rows: Sequence[Row]) -> list[Issuer]:
    current = await store.current_keys(conn, [row["id"] for row in rows])
    return [_issuer(row, current.get(row["id"])) for row in rows]


def _issuer(row: Row, key: Row | None) -> Issuer:
    fields = {name: row[name] for name in Issuer.__struct_fields__ if name not in {"config", "key"}}
    return Issuer(**fields, config=editing.shown(row), key=None if key is None else _key(key))


def _key(row: Row) -> IssuerKey:
    chain = tuple(row["chain"])
    own = {"ski": row["ski"], "is_current": row["is_current"], "created_at": row["created_at"]}
    return IssuerKey(**own, **msgspec.structs.asdict(read_authority(chain[0])), pem=chain_to_pem(chain).decode())


async def _one(conn: Connection, issuer_id: str) -> Issuer:
    row = await store.get(conn, issuer_id)
    if row is None:
        detail = f"there is no issuer {issuer_id}"
        raise NotFound(detail)
    (issuer,) = await _shape(conn, [row])
    return issuer


async def list_issuers(call: Call[NoBody, IssuerQuery]) -> Page[Issuer] | Streamed:
    """List issuers, newest first."""
    return await read_page(call, store.LISTING, Issuer, _shape)


async def get(call: Call[NoBody, NoQuery]) -> Issuer:
    """Return one issuer; its ETag is its revision."""
    async with call.ctx.db.connection() as conn:
        return await _one(conn, call.path["issuer_id"])


async def create(call: Call[Any, NoQuery]) -> Issuer:
    """Add an issuer: its first key is made, or taken from the configuration, at once."""
    issuer_id = new_id("iss") if call.body.id is None else check_chosen("iss", call.body.id)
    fields = {name: getattr(call.body, name) for name in IssuerBody.__struct_fields__}
    await editing.create(call, issuer_id, IssuerBody(**fields))
    return await _one(call.tx, issuer_id)


async def replace(call: Call[IssuerBody, NoQuery]) -> Issuer:
    """Replace the whole; the configuration takes effect with the next key."""
    return await _changed(call, lambda _row: call.body)


async def merge(call: Call[Any, NoQuery]) -> Issuer:
    """Change the named fields (RFC 7396): null brings back a default, objects are merged."""

    def body_of(row: Row) -> IssuerBody:
        return merged(IssuerBody, {**dict(row.items()), "config": editing.shown(row)}, call.body)

    return await _changed(call, body_of)


async def _changed(call: Call[Any, NoQuery], body_of: Callable[[Row], IssuerBody]) -> Issuer:
    issuer_id = call.path["issuer_id"]
    await editing.change(call, issuer_id, body_of)
    async with call.ctx.db.connection() as conn:
        return await _one(conn, issuer_id)


async def remove(call: Call[NoBody, NoQuery]) -> None:
    """Remove an issuer that nothing refers to."""
    await editing.remove(call, call.path["issuer_id"])


async def test(call: Call[NoBody, NoQuery]) -> Tried:
    """Look at key, chain and dates, and let the issuer sign a certificate that is thrown away."""
    return await editing.try_out(call.ctx, call.path["issuer_id"])


async def list_keys(call: Call[NoBody, NoQuery]) -> IssuerKeys:
    """List all keys of an issuer, the current one first."""
    async with call.ctx.db.connection() as conn:
        return await _keys(conn, call.path["issuer_id"])


async def _keys(conn: Connection, issuer_id: str) -> IssuerKeys:
    await _one(conn, issuer_id)
    found = [_key(row) for row in await store.keys_of(conn, issuer_id)]
    return IssuerKeys(found, len(found))


async def rotate(call: Call[NewKey, NoQuery]) -> IssuerKey:
    """Give an issuer a new key; certificates of the one before stay valid."""
    issuer_id = call.path["issuer_id"]
    await editing.rotate(call, issuer_id)
    return (await _keys(call.tx, issuer_id)).data[0]


async def list_types(_call: Call[NoBody, NoQuery]) -> IssuerTypes:
    """List the kinds of issuers, each with the JSON schema of its configuration."""
    found = [_type(name) for name in registry.known_types()]
    return IssuerTypes(found, len(found))


def _type(name: str) -> IssuerType:
    kind = registry.config_type(name)
    description = (kind.__doc__ or "").strip().partition("\n")[0]
    return IssuerType(name, description, list(marking.secret_fields(kind)), marking.schema(kind))


async def ca_certificate(call: Call[NoBody, NoQuery]) -> Raw:
    """Return the current issuing certificate in DER."""
    return await _ca_certificate(call, None)


async def ca_certificate_of_key(call: Call[NoBody, NoQuery]) -> Raw:
    """Return the issuing certificate of the key that the file is named after, in DER."""
    return await _ca_certificate(call, call.path["file"].removesuffix(".cer"))


async def _ca_certificate(call: Call[NoBody, NoQuery], ski: str | None) -> Raw:
    der = await service.issuing_certificate(call.ctx, call.path["issuer_id"], ski)
    return Raw(der, _CERTIFICATE, _cache_headers(der, 86400))


async def crl(call: Call[NoBody, NoQuery]) -> Raw:
    """Return the CRL of the current key in DER."""
    return await _crl(call, None)


async def crl_of_key(call: Call[NoBody, NoQuery]) -> Raw:
    """Return the CRL of the key that the file is named after, in DER."""
    return await _crl(call, call.path["file"].removesuffix(".crl"))


async def _crl(call: Call[NoBody, NoQuery], ski: str | None) -> Raw:
    der, next_update = await service.crl(call.ctx, call.path["issuer_id"], ski)
    left = int((next_update - call.ctx.clock.now()).total_seconds())
    return Raw(der, _LIST, _cache_headers(der, max(0, min(3600, left))))


def _cache_headers(der: bytes, max_age_s: int) -> dict[str, str]:
    return {"Cache-Control": f"public, max-age={max_age_s}", "ETag": f'"{fingerprint(der)[:32]}"'}


_CA, _CRL = "/.well-known/pki/ca/{issuer_id}", "/.well-known/pki/crl/{issuer_id}"

PUBLIC_ROUTES = [
    Route(
        "GET",
        _CA,
        ca_certificate,
        Access.OPEN,
        "Current issuing certificate",
        None,
        errors=(NotFound,),
        content_type=_CERTIFICATE,
    ),
    Route(
        "GET",
        f"{_CA}/{{file}}",
        ca_certificate_of_key,
        Access.OPEN,
        "Issuing certificate of one key",
        None,
        errors=(NotFound,),
        content_type=_CERTIFICATE,
    ),
    Route("GET", _CRL, crl, Access.OPEN, "Current CRL", None, errors=(NotFound,), content_type=_LIST),
    Route(
        "GET",
        f"{_CRL}/{{file}}",
        crl_of_key,
        Access.OPEN,
        "CRL of one key",
        None,
        errors=(NotFound,),
        content_type=_LIST,
    ),
]
"""What the plain listener serves as well: nothing here is secret, and clients must not need TLS to check TLS."""

_ALL, _ONE = "/api/v1/issuers", "/api/v1/issuers/{issuer_id}"
_CHANGES = (NotFound, PreconditionFailed, Conflict, Refused)

ROUTES = [
    Route("GET", _ALL, list_issuers, Permission.READ, "List issuers", Page[Issuer], query=IssuerQuery,
          listing=store.LISTING),
    Route("GET", _ONE, get, Permission.READ, "Get an issuer", Issuer, errors=(NotFound,)),
    Route("POST", _ALL, create, Permission.ISSUERS_WRITE, "Add an issuer", Issuer,
          request=CreateIssuer, status=201, errors=(Conflict, Refused)),
    Route("PUT", _ONE, replace, Permission.ISSUERS_WRITE, "Replace an issuer", Issuer,
          request=IssuerBody, errors=_CHANGES),
    Route("PATCH", _ONE, merge, Permission.ISSUERS_WRITE, "Change parts of an issuer", Issuer,
          request=IssuerPatch, errors=_CHANGES),
    Route("DELETE", _ONE, remove, Permission.ISSUERS_WRITE, "Remove an issuer", None,
          status=204, errors=(NotFound, PreconditionFailed, Conflict)),
    Route("POST", f"{_ONE}/test", test, Permission.ISSUERS_WRITE, "Try an issuer", Tried, errors=(NotFound,)),
    Route("GET", f"{_ONE}/keys", list_keys, Permission.READ, "List an issuer's keys", IssuerKeys, errors=(NotFound,)),
    Route("POST", f"{_ONE}/keys", rotate, Permission.ISSUERS_WRITE, "Give an issuer a new key", IssuerKey,
          request=NewKey, status=201, errors=(NotFound, Conflict, Refused)),
    Route("GET", "/api/v1/issuer-types", list_types, Permission.READ, "List kinds of issuers", IssuerTypes),
    *PUBLIC_ROUTES,
]  # fmt: skip
