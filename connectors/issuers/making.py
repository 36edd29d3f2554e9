"""New authorities of type ``local``: a root, a subordinate of one that is there, or one taken over from PEM."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from connectors.issuers.constraints import extension_of, outside
from connectors.issuers.local import (
    LocalIssuer,
    authority_key_identifier,
    ca_key_usage,
    examine,
    extension_in,
    publication,
)
from connectors.issuers.local_config import LocalConfig
from core import keys
from core.certificates import new_serial, pem_to_chain
from core.csr import signature_hash
from core.errors import InvalidInput
from core.secret import Secret

_BACKDATING = timedelta(minutes=5)


class Parent(NamedTuple):
    """The authority that signs a subordinate one, and where it publishes its certificate and its CRL."""

    issuer_id: str
    authority: LocalIssuer
    aia_url: str = ""
    cdp_url: str = ""


def make(config: LocalConfig, common_name: str, now: datetime, parent: Parent | None = None) -> LocalIssuer:
    """Return a new authority with a new key; it may take seconds.

    Raises ``InvalidInput`` for what its parent forbids.
    """
    limits = extension_of(config.permitted_names, config.excluded_names)
    if parent is not None:
        _check_under(parent, config, limits)
    key = keys.generate(config.key_algorithm)
    subject = _subject(common_name, config.organization)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.authority.certificate.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(new_serial())
        .not_valid_before(now - _BACKDATING)
        .not_valid_after(_end(config, now, parent))
        .add_extension(x509.BasicConstraints(ca=True, path_length=config.path_length), critical=True)
        .add_extension(ca_key_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if limits is not None:
        builder = builder.add_extension(limits, critical=True)
    if parent is not None:
        for value in _of_parent(parent):
            builder = builder.add_extension(value, critical=False)
    signer = parent.authority.key if parent else key
    der = builder.sign(signer, signature_hash(signer)).public_bytes(serialization.Encoding.DER)
    return LocalIssuer(key, (der, *(parent.authority.chain if parent else ())))


def take_over(certificate_chain: str, key: Secret[str], now: datetime, root: str = "config.") -> LocalIssuer:
    """Return an authority of the operator's own; raise ``InvalidInput`` naming the field that cannot be used."""
    chain = pem_to_chain(certificate_chain.encode(), field=f"{root}certificate_chain")
    try:
        private = keys.from_pem(Secret(key.reveal().encode()))
        keys.algorithm_of(private.public_key(), field=f"{root}key")
    except InvalidInput as error:
        raise InvalidInput.of(f"{root}key", error.errors[0].problem) from error
    issuer = LocalIssuer(private, chain)
    for finding in examine(issuer, now):
        if finding.problem:
            raise InvalidInput.of(f"{root}{'key' if finding.what == 'key' else 'certificate_chain'}", finding.problem)
    return issuer


def _subject(common_name: str, organization: str) -> x509.Name:
    parts = [(NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, common_name)]
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts if text])


def _end(config: LocalConfig, now: datetime, parent: Parent | None) -> datetime:
    end = now + timedelta(days=config.lifetime_days)
    if parent is None:
        return end
    last = parent.authority.certificate.not_valid_after_utc
    if last <= now:
        raise InvalidInput.of("config.parent_issuer_id", f"{parent.issuer_id} has expired; give it a new key first")
    return min(end, last)


def _check_under(parent: Parent, config: LocalConfig, limits: x509.NameConstraints | None) -> None:
    most = most_levels(parent.authority)
    if most is not None and most < 1:
        problem = f"{parent.issuer_id} may sign leaves only (path length); choose one that allows a level below it"
        raise InvalidInput.of("config.parent_issuer_id", problem)
    if most is not None and (config.path_length is None or config.path_length >= most):
        raise InvalidInput.of("config.path_length", f"is at most {most - 1} under {parent.issuer_id}")
    for place, subtree in enumerate((limits.permitted_subtrees if limits else None) or ()):
        if problem := outside(subtree, parent.authority.chain):
            raise InvalidInput.of(f"config.permitted_names[{place}]", problem)


def most_levels(authority: LocalIssuer) -> int | None:
    """Return how many levels of authorities its whole chain allows below it, None for any number."""
    found = []
    for above, der in enumerate(authority.chain):
        constraints = extension_in(x509.load_der_x509_certificate(der), x509.BasicConstraints)
        if constraints is not None and constraints.value.path_length is not None:
            found.append(constraints.value.path_length - above)
    return min(found, default=None)


def _of_parent(parent: Parent) -> list[x509.ExtensionType]:
    return [
        authority_key_identifier(parent.authority.certificate),
        *publication(parent.aia_url, parent.cdp_url),
    ]
