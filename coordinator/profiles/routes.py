"""Profiles over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.issuers import service as issuers
from coordinator.profiles import store
from coordinator.profiles.service import Lifetime, Usage
from coordinator.web.paging import PageQuery
from coordinator.web.resource import Resource, Use, routes_of
from coordinator.web.table import Permission, Strict
from core.errors import FieldError, InvalidInput
from core.keys import KeyAlgorithm, KeyChoice, chosen_algorithms
from core.patterns import check_pattern

Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
Patterns = Annotated[tuple[Pattern, ...], msgspec.Meta(max_length=100)]
AuthMode = Literal["trust_authenticated", "challenge"]
_ALONE = "stands alone in a certificate (RFC 3161 section 2.3)"


class ProfileBody(Strict):
    """What may be issued. Lifetimes are seconds; the first key algorithm is the default.

    ``key_algorithms`` takes names, and ``{"algorithm": "RSA", "min_size": 3072}`` for all of a family from a size on.
    Empty lists of names and issuers allow all. With ``spiffe_uri_pattern`` a URI has to be a SPIFFE ID that matches it,
    whatever ``allowed_names`` says of others. ``required_names`` are patterns that some name has to match, each.

    With ``requires_approval`` that many persons other than who asked have to agree to each issuance; without
    ``approve_renewals`` only to what is not exactly what was approved last. ``approver_owner_ids`` limits them to keys
    of these owners, and to people with their e-mail addresses.

    ACME accounts of a profile with ``trust_authenticated`` get every name that it allows without a challenge; so they
    have to be bound to an external account, unless ``acme_open_accounts``. With ``challenge`` names are validated.
    Null is what CERTCTL_ACME_SERVER_DEFAULT_AUTH_MODE says.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    max_lifetime_s: Lifetime
    default_lifetime_s: Lifetime | None = None
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    default_issuer_id: str = issuers.LOCAL
    allowed_issuer_ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=100)] = ()
    key_algorithms: Annotated[tuple[KeyChoice, ...], msgspec.Meta(min_length=1, max_length=20)] = (
        KeyAlgorithm.ECDSA_P256,
    )
    extended_key_usages: Annotated[tuple[Usage, ...], msgspec.Meta(min_length=1, max_length=5)] = ("serverAuth",)
    allowed_names: Patterns = ()
    required_names: Patterns = ()
    spiffe_uri_pattern: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    must_staple: bool = False
    requires_approval: bool = False
    approvals_required: Annotated[int, msgspec.Meta(ge=1, le=20)] = 1
    approve_renewals: bool = True
    approver_owner_ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=100)] = ()
    acme_auth_mode: AuthMode | None = None
    acme_open_accounts: bool = False
    enabled: bool = True


class Profile(msgspec.Struct):
    """A profile as it is, with the key algorithms by name."""

    id: str
    name: str
    description: str
    default_issuer_id: str
    allowed_issuer_ids: list[str]
    key_algorithms: list[str]
    default_lifetime_s: int
    max_lifetime_s: int
    extended_key_usages: list[str]
    allowed_names: list[str]
    required_names: list[str]
    spiffe_uri_pattern: str
    must_staple: bool
    requires_approval: bool
    approvals_required: int
    approve_renewals: bool
    approver_owner_ids: list[str]
    acme_auth_mode: AuthMode | None
    acme_open_accounts: bool
    enabled: bool
    revision: int
    created_at: datetime
    updated_at: datetime


class ProfileQuery(PageQuery):
    """Filters of the profile list."""

    name: str | None = None
    enabled: bool | None = None
    requires_approval: bool | None = None


async def _values(conn: Connection, body: ProfileBody, _row: Row | None) -> dict[str, Any]:
    """Return the columns' values; raise ``InvalidInput`` for what could never be issued."""
    _check_patterns(body)
    wrong = [*_wrong_usages(body), *await _wrong_issuers(conn, body), *await _wrong_approvers(conn, body)]
    default_lifetime_s = body.default_lifetime_s or body.max_lifetime_s
    if default_lifetime_s > body.max_lifetime_s:
        wrong.append(FieldError("default_lifetime_s", "is longer than max_lifetime_s"))
    if wrong:
        raise InvalidInput("; ".join(f"{e.field}: {e.problem}" for e in wrong), errors=tuple(wrong))
    values: dict[str, Any] = msgspec.to_builtins(body)
    return values | {
        "default_lifetime_s": default_lifetime_s,
        "key_algorithms": list(chosen_algorithms(body.key_algorithms, field="key_algorithms")),
        "extended_key_usages": list(dict.fromkeys(body.extended_key_usages)),
    }


def _check_patterns(body: ProfileBody) -> None:
    for field in ("allowed_names", "required_names"):
        for place, pattern in enumerate(getattr(body, field)):
            check_pattern(pattern, field=f"{field}[{place}]")
    if body.spiffe_uri_pattern:
        if not body.spiffe_uri_pattern.startswith("spiffe://"):
            raise InvalidInput.of("spiffe_uri_pattern", "does not begin with spiffe://")
        check_pattern(body.spiffe_uri_pattern, field="spiffe_uri_pattern")


def _wrong_usages(body: ProfileBody) -> list[FieldError]:
    wrong, usages = list[FieldError](), set(body.extended_key_usages)
    if "timeStamping" in usages and len(usages) > 1:
        wrong.append(FieldError("extended_key_usages", f"timeStamping {_ALONE}"))
    if body.must_staple and "serverAuth" not in usages:
        wrong.append(FieldError("must_staple", "is about TLS servers; it needs serverAuth in extended_key_usages"))
    return wrong


def _unknown(field: str, what: str, wanted: Sequence[str], known: set[str]) -> list[FieldError]:
    return [
        FieldError(f"{field}[{place}]", f"there is no {what} {each}")
        for place, each in enumerate(wanted)
        if each not in known
    ]


async def _wrong_issuers(conn: Connection, body: ProfileBody) -> list[FieldError]:
    wanted = body.allowed_issuer_ids
    known = await store.issuers_among(conn, wanted) if wanted else set()
    wrong = _unknown("allowed_issuer_ids", "issuer", wanted, known)
    if wanted and body.default_issuer_id not in wanted:
        wrong.append(FieldError("default_issuer_id", "is not among allowed_issuer_ids; choose one of them"))
    return wrong


async def _wrong_approvers(conn: Connection, body: ProfileBody) -> list[FieldError]:
    wanted = body.approver_owner_ids
    known = await store.owners_among(conn, wanted) if wanted else set()
    wrong = _unknown("approver_owner_ids", "owner", wanted, known)
    if wanted and len(set(wanted)) < body.approvals_required:
        problem = f"is {body.approvals_required}, more than there are owners in approver_owner_ids"
        wrong.append(FieldError("approvals_required", problem))
    return wrong


PROFILES = Resource(
    "profile",
    "/api/v1/profiles",
    "prof",
    store.TABLE,
    store.LISTING,
    ProfileBody,
    Profile,
    Permission.PROFILES_WRITE,
    ProfileQuery,
    values=_values,
    uses=(Use("certificates", "profile_id", "certificates"),),
    references={"default_issuer_id": "default_issuer_id"},
    kept=frozenset({"prof-default"}),
)
ROUTES = routes_of(PROFILES)
