"""Chains: alternates of a real authority, and those that are not what was ordered."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from connectors.issuers.acme.accounts import Account, Registration, find_or_register
from connectors.issuers.acme.certificates import Issued, check, download
from connectors.issuers.acme.client import session
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.orders import new_order
from connectors.issuers.acme.transport import Answer
from core.acme import HTTP_01
from core.certificates import chain_to_pem, new_serial
from core.csr import build_csr
from core.errors import Refused, Transient
from core.keys import KeyAlgorithm, PrivateKey, generate, spki_sha256
from core.names import parse_name
from tests.connectors.issuers.acme.obtaining import obtain
from tests.connectors.issuers.acme.pebble import HTTPAnswers, Pebble

pytestmark = pytest.mark.anyio
NOW = datetime.now(UTC)
NAME = parse_name("www.example.test")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority with three roots."""
    authority = Pebble(tmp_path_factory.mktemp("many"), alternates=2)
    try:
        yield authority.start()
    finally:
        authority.stop()


async def test_the_chain_below_the_preferred_root_is_taken(many: Pebble) -> None:
    roots = [x509.load_pem_x509_certificate(many.manage(f"roots/{number}").content) for number in range(3)]
    wanted = [root.subject.rfc4514_string().removeprefix("CN=") for root in roots]
    async with session(many.directory_url, many.connection) as client:
        account = await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True))
        order = await new_order(account, (NAME,))
        csr = build_csr(generate(KeyAlgorithm.ECDSA_P256), "", (NAME,))
        issued = await obtain(order, csr, {HTTP_01: HTTPAnswers(many)}, preferred_root=wanted[2])
        assert issued.root == wanted[2]
        for root, name in zip(roots, wanted, strict=True):
            chosen = await order.certificate(csr, preferred_root=name)
            assert chosen.root == name
            x509.load_der_x509_certificate(chosen.chain[-1]).verify_directly_issued_by(root)
            assert chosen.chain[0] == issued.chain[0]
        assert (await order.certificate(csr, preferred_root="No such root")).root == wanted[0]


KEYS = [generate(KeyAlgorithm.ECDSA_P256) for _ in range(4)]


def certificate(subject: str, issuer: str, key: PrivateKey, by: PrivateKey, *names: str, ca: bool = True) -> bytes:
    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(new_serial())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        alternatives = x509.SubjectAlternativeName([parse_name(name).general_name() for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


LEAF = certificate("Leaf", "Lower", KEYS[0], KEYS[1], "www.example.test", ca=False)
LOWER = certificate("Lower", "Upper", KEYS[1], KEYS[2])
UPPER = certificate("Upper", "Root", KEYS[2], KEYS[3])
ROOT = certificate("Root", "Root", KEYS[3], KEYS[3])
OTHER = certificate("Other", "Root", KEYS[3], KEYS[3])


class Gives(Account):
    """An account that is given a chain."""

    def __init__(self, *chain: bytes) -> None:
        object.__setattr__(self, "body", chain_to_pem(chain) if chain else b"nothing")

    async def post(self, url: str, payload: object, *, what: str, accept: str = "application/json") -> Answer:
        assert accept == "application/pem-certificate-chain"
        return Answer(200, url, {}, self.body, 0.0)  # type: ignore[attr-defined]  # see above


@pytest.mark.parametrize(
    "given,chain,root",
    [
        ((LEAF, LOWER, UPPER), (LEAF, LOWER, UPPER), "Root"),
        ((LEAF, LOWER, UPPER, ROOT), (LEAF, LOWER, UPPER), "Root"),
        ((LEAF, UPPER, OTHER, LOWER), (LEAF, LOWER, UPPER), "Root"),
        ((LEAF,), (LEAF,), "Lower"),
    ],
)
async def test_a_chain_leads_up_from_the_leaf_without_the_root(
    given: tuple[bytes, ...], chain: tuple[bytes, ...], root: str
) -> None:
    assert await download(Gives(*given), "https://ca.test/cert") == Issued(chain, root)


async def test_what_is_no_chain_is_refused() -> None:
    with pytest.raises(Refused, match="does not lead up"):
        await download(Gives(LEAF, UPPER), "https://ca.test/cert")
    with pytest.raises(Transient, match="no chain in PEM"):
        await download(Gives(), "https://ca.test/cert")


def test_a_certificate_has_the_ordered_key_and_the_ordered_names() -> None:
    issued, key = Issued((LEAF, LOWER), "Upper"), spki_sha256(KEYS[0].public_key())
    check(issued, spki_sha256=key, names=(NAME,))
    with pytest.raises(Refused, match="another key"):
        check(issued, spki_sha256=spki_sha256(KEYS[1].public_key()), names=(NAME,))
    more = parse_name("more.example.test")
    with pytest.raises(Refused, match=r"lacks more\.example\.test, has none"):
        check(issued, spki_sha256=key, names=(NAME, more))
    with pytest.raises(Refused, match=r"has www\.example\.test"):
        check(issued, spki_sha256=key, names=(more,))
    two = certificate("Leaf", "Lower", KEYS[0], KEYS[1], "www.example.test", "more.example.test", ca=False)
    with pytest.raises(Refused, match=r"lacks none, has more\.example\.test"):
        check(Issued((two,), ""), spki_sha256=key, names=(NAME,))
    odd = certificate("Leaf", "Lower", KEYS[0], KEYS[1], ca=False)
    with pytest.raises(Refused, match="other names"):
        check(Issued((odd,), ""), spki_sha256=key, names=(NAME,))
