"""What an authority that signs in this process is made of: the configuration of issuers of type ``local``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from core.keys import KeyAlgorithm
from core.secret import Secret

Constraint = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
_OF_THE_CERTIFICATE = (
    "common_name",
    "organization",
    "key_algorithm",
    "lifetime_days",
    "path_length",
    "permitted_names",
    "excluded_names",
    "parent_issuer_id",
)


class LocalConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A root or subordinate authority that is made here, or one of your own from PEM.

    Changes take effect with the issuer's next key.
    """

    common_name: Annotated[
        str, msgspec.Meta(description="Common name of the authority; default: the issuer's name.", max_length=64)
    ] = ""
    organization: Annotated[str, msgspec.Meta(description="Organization in its subject.", max_length=64)] = ""
    key_algorithm: Annotated[KeyAlgorithm, msgspec.Meta(description="Algorithm of its key.")] = KeyAlgorithm.ECDSA_P256
    lifetime_days: Annotated[
        int,
        msgspec.Meta(description="Days that its certificate lives; never longer than its parent's.", ge=1, le=36600),
    ] = 3650
    path_length: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=9)] | None,
        msgspec.Meta(description="Levels of authorities allowed below it; 0: it signs leaves only; null: any."),
    ] = 0
    permitted_names: Annotated[
        tuple[Constraint, ...],
        msgspec.Meta(
            description="All it may certify: example.com (and what is below), 10.0.0.0/8, @example.com. "
            "A kind of names that is not among them is not limited.",
            max_length=100,
        ),
    ] = ()
    excluded_names: Annotated[
        tuple[Constraint, ...], msgspec.Meta(description="What it may not certify, written alike.", max_length=100)
    ] = ()
    parent_issuer_id: Annotated[
        str | None, msgspec.Meta(description="Issuer of type local that signs it; without one it is a root.")
    ] = None
    certificate_chain: Annotated[
        Annotated[str, msgspec.Meta(max_length=100_000)] | None,
        msgspec.Meta(description="Your own authority, PEM: its certificate, then those above it."),
    ] = None
    key: Annotated[
        Secret[str] | None,
        msgspec.Meta(description="Its private key, PEM, not encrypted.", extra_json_schema={"secret": True}),
    ] = None

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        if (self.certificate_chain is None) != (self.key is None):
            missing, given = ("key", "certificate_chain") if self.key is None else ("certificate_chain", "key")
            raise ValueError(f"{missing}: is required with {given}; add it")
        if self.certificate_chain is not None:
            self._check_alone()

    def _check_alone(self) -> None:
        for field in msgspec.structs.fields(self):
            if field.name in _OF_THE_CERTIFICATE and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name}: stands in your authority's certificate already; leave it out")
