"""What a profile allows. The gate asks here for every certificate, whoever wants it and however it came in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from coordinator.database.connection import Connection
from coordinator.profiles import store
from core.errors import FieldError, Refused
from core.names import Name, NameKind
from core.patterns import matches, spiffe_problem

Lifetime = Annotated[int, msgspec.Meta(ge=60, le=100 * 366 * 86400)]
"""Seconds that a certificate may live: a minute to a hundred years."""

Usage = Literal["serverAuth", "clientAuth", "emailProtection", "codeSigning", "timeStamping"]
_USES_OF_MAIL = {"emailProtection", "clientAuth"}


class Profile(msgspec.Struct, frozen=True):
    """A profile's rules; ``key_algorithms[0]`` is the default."""

    id: str
    name: str
    default_issuer_id: str
    allowed_issuer_ids: tuple[str, ...]
    key_algorithms: tuple[str, ...]
    default_lifetime_s: int
    max_lifetime_s: int
    extended_key_usages: tuple[str, ...]
    allowed_names: tuple[str, ...]
    required_names: tuple[str, ...]
    spiffe_uri_pattern: str
    must_staple: bool
    requires_approval: bool
    approvals_required: int
    approve_renewals: bool
    approver_owner_ids: tuple[str, ...]
    acme_auth_mode: str | None
    acme_open_accounts: bool
    enabled: bool
    revision: int

    def check(self, names: tuple[Name, ...], key_algorithm: str, lifetime_s: int, issuer_id: str) -> None:
        """Raise ``Refused`` that names every rule a wish breaks."""
        wrong = [
            *self._broken_by_the_order(key_algorithm, lifetime_s, issuer_id),
            *self._broken_by_names(names),
            *self._broken_by_purpose(names),
        ]
        if wrong:
            raise Refused("; ".join(f"{e.field} {e.problem}" for e in wrong), errors=tuple(wrong))

    def _broken_by_the_order(self, key_algorithm: str, lifetime_s: int, issuer_id: str) -> Iterator[FieldError]:
        if not self.enabled:
            yield FieldError("profile_id", f"profile {self.id} is switched off")
        if key_algorithm not in self.key_algorithms:
            problem = f"is {key_algorithm}; profile {self.id} allows {', '.join(self.key_algorithms)}"
            yield FieldError("key_algorithm", problem)
        if lifetime_s > self.max_lifetime_s:
            problem = f"is {lifetime_s} s; profile {self.id} allows at most {self.max_lifetime_s} s"
            yield FieldError("lifetime_s", problem)
        if self.allowed_issuer_ids and issuer_id not in self.allowed_issuer_ids:
            problem = f"is {issuer_id}; profile {self.id} allows {', '.join(self.allowed_issuer_ids)}"
            yield FieldError("issuer_id", problem)

    def _broken_by_names(self, names: tuple[Name, ...]) -> Iterator[FieldError]:
        for place, name in enumerate(names):
            if problem := self._problem_of(name):
                yield FieldError(f"sans[{place}]", f"{name} {problem}")
        for pattern in self.required_names:
            if not any(matches(name, pattern) for name in names):
                yield FieldError("sans", f"lack a name of the form {pattern}, which profile {self.id} requires")
        uris = [name for name in names if name.kind is NameKind.URI]
        if self.spiffe_uri_pattern and len(uris) > 1:
            yield FieldError("sans", f"hold {len(uris)} URIs; with a SPIFFE ID there may be no other (X509-SVID, 2)")

    def _problem_of(self, name: Name) -> str:
        if name.kind is NameKind.URI and self.spiffe_uri_pattern:
            fits = matches(name, self.spiffe_uri_pattern)
            otherwise = "" if fits else f"is not of the form {self.spiffe_uri_pattern}, as profile {self.id} asks"
            return spiffe_problem(name.value) or otherwise
        if self.allowed_names and not any(matches(name, pattern) for pattern in self.allowed_names):
            return f"is not among the names that profile {self.id} allows"
        return ""

    def _broken_by_purpose(self, names: tuple[Name, ...]) -> Iterator[FieldError]:
        """Hold names against what the certificate is for: mail needs an address, and only an address (RFC 8550)."""
        purposes, kinds = set(self.extended_key_usages), {name.kind for name in names}
        if "emailProtection" in purposes and NameKind.EMAIL not in kinds:
            yield FieldError("sans", f"hold no e-mail address; profile {self.id} is for protecting mail")
        for place, name in enumerate(names):
            if name.kind is NameKind.EMAIL and not purposes & _USES_OF_MAIL:
                problem = f"{name} is an e-mail address; profile {self.id} is for {', '.join(self.extended_key_usages)}"
                yield FieldError(f"sans[{place}]", problem)
            if name.kind in {NameKind.DNS, NameKind.IP} and purposes == {"emailProtection"}:
                yield FieldError(f"sans[{place}]", f"{name} is a host; profile {self.id} is for protecting mail alone")


async def get(conn: Connection, profile_id: str) -> Profile | None:
    """Return a profile, if it is there."""
    row = await store.get(conn, profile_id)
    return None if row is None else msgspec.convert(dict(row.items()), Profile)


async def ensure_defaults(conn: Connection, issuer_id: str) -> None:
    """Create the ready-made rows at first start."""
    await store.ensure_defaults(conn, issuer_id)
