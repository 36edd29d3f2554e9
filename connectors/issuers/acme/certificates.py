"""Certificates that were issued: downloaded with their chain (RFC 8555 section 7.4.2) and held against the order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from connectors.issuers.acme.accounts import Account
from connectors.issuers.acme.transport import Answer
from core.certificates import pem_to_chain, read_certificate
from core.errors import InvalidInput, Refused, Transient
from core.foreign import chain_of, read_foreign
from core.names import Name

_PEM_CHAIN = "application/pem-certificate-chain"
_MOST_ALTERNATES = 10
_WHAT = "downloading the certificate"


class Issued(NamedTuple):
    """A chain in DER, the leaf first, without a root. ``root`` is the common name of what issued its topmost."""

    chain: tuple[bytes, ...]
    root: str


async def download(account: Account, url: str, preferred_root: str = "") -> Issued:
    """Return the chain below ``preferred_root``, the authority's own choice where there is no such one."""
    answer = await account.post(url, None, what=_WHAT, accept=_PEM_CHAIN)
    first = _issued(answer)
    if not preferred_root or first.root == preferred_root:
        return first
    for alternate in answer.links("alternate")[:_MOST_ALTERNATES]:
        other = _issued(await account.post(alternate, None, what=_WHAT, accept=_PEM_CHAIN))
        if other.root == preferred_root:
            return other
    return first


def check(issued: Issued, *, spki_sha256: str, names: Iterable[Name]) -> None:
    """Raise ``Refused`` when the leaf does not have the ordered key and exactly the ordered names."""
    try:
        leaf = read_certificate(issued.chain[0])
    except InvalidInput as error:
        raise Refused(f"the authority issued what was not ordered: {error.detail}") from error
    if leaf.spki_sha256 != spki_sha256:
        raise Refused("the authority issued a certificate for another key than that of the request; make a new order")
    wanted = set(names)
    if set(leaf.names) != wanted:
        missing, extra = wanted - set(leaf.names), set(leaf.names) - wanted
        raise Refused(f"the authority issued a certificate for other names: lacks {_list(missing)}, has {_list(extra)}")


def _issued(answer: Answer) -> Issued:
    try:
        found = [read_foreign(der) for der in pem_to_chain(answer.body)]
    except InvalidInput as error:
        raise Transient(f"{_WHAT}: {answer.url} gave no chain in PEM: {error.detail}") from error
    leaf, others = found[0], found[1:]
    above = chain_of(leaf, others)
    if others and not above and not _is_issued_by_root(leaf.certificate, others[0].certificate):
        raise Refused("the authority gave a chain that does not lead up from the leaf; make a new order")
    chain = (leaf, *above)
    return Issued(tuple(link.der for link in chain), _common_name(chain[-1].certificate.issuer))


def _is_issued_by_root(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    return root.issuer == root.subject == leaf.issuer


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _list(names: Iterable[Name]) -> str:
    return ", ".join(sorted(str(name) for name in names)) or "none"
