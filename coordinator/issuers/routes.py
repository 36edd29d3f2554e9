"""Issuers for operators; issuing certificates and CRLs for relying parties (RFC 5280 sections 4.2.1.13 and 4.2.2.1)."""

from __future__ import annotations

from datetime import datetime

import msgspec

from coordinator.issuers import service, store
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.table import Access, Call, NoBody, NoQuery, Permission, Raw, Route, Streamed
from core.certificates import fingerprint
from core.errors import NotFound

_CERTIFICATE, _LIST = "application/pkix-cert", "application/pkix-crl"


class Issuer(msgspec.Struct):
    """A certificate authority."""

    id: str
    name: str
    type: str
    enabled: bool
    created_at: datetime


async def list_issuers(call: Call[NoBody, PageQuery]) -> Page[Issuer] | Streamed:
    """List issuers, newest first."""
    return await read_page(call, store.LISTING, Issuer)


async def get(call: Call[NoBody, NoQuery]) -> Issuer:
    """Return one issuer."""
    async with call.ctx.db.connection() as conn:
        row = await store.get(conn, call.path["issuer_id"])
    if row is None:
        detail = f"there is no issuer {call.path['issuer_id']}"
        raise NotFound(detail)
    return Issuer(**row)


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

ROUTES = [
    Route("GET", "/api/v1/issuers", list_issuers, Permission.READ, "List issuers", Page[Issuer], query=PageQuery),
    Route("GET", "/api/v1/issuers/{issuer_id}", get, Permission.READ, "Get an issuer", Issuer, errors=(NotFound,)),
    *PUBLIC_ROUTES,
]
