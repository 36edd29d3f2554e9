"""What is wrong with how a certificate is served: chains and stapled OCSP responses, from real handshakes."""

from __future__ import annotations

import datetime as dt
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from OpenSSL import SSL

from connectors.probes.tls import Observation, probe
from connectors.probes.verify import in_words, must_staple, shortcoming

pytestmark = pytest.mark.anyio

NOW = dt.datetime.now(dt.UTC)


class Made:
    """A certificate with its key."""

    def __init__(self, name: str, issuer: Made | None = None, *, staple: bool = False) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder(public_key=self.key.public_key())
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=1))
            .not_valid_after(NOW + dt.timedelta(days=1))
        )
        if staple:
            builder = builder.add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
        self.certificate: x509.Certificate = builder.sign(issuer.key if issuer else self.key, hashes.SHA256())
        self.der: bytes = self.certificate.public_bytes(Encoding.DER)


ROOT = Made("root")
UPPER = Made("upper", ROOT)
LOWER = Made("lower", UPPER)
LEAF, STAPLED = Made("leaf", LOWER), Made("leaf", LOWER, staple=True)


def response(about: Made, status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD) -> bytes:
    revoked = NOW if status is ocsp.OCSPCertStatus.REVOKED else None
    builder = ocsp.OCSPResponseBuilder().add_response(
        about.certificate, LOWER.certificate, hashes.SHA256(), status, NOW, None, revoked, None
    )
    responder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, LOWER.certificate)
    return responder.sign(LOWER.key, hashes.SHA256()).public_bytes(Encoding.DER)


@contextmanager
def serving(leaf: Made, others: Sequence[Made] = (), staple: bytes = b"") -> Iterator[int]:
    """Serve one handshake with OpenSSL; lend the port."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(leaf.certificate)
    context.use_privatekey(leaf.key)
    for other in others:
        context.add_extra_chain_cert(other.certificate)
    context.set_ocsp_server_callback(lambda _tls, _data: staple)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            tls = SSL.Connection(context, connection)
            tls.set_accept_state()
            tls.do_handshake()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            thread.join(10)


async def look(leaf: Made, others: Sequence[Made] = (), staple: bytes = b"") -> Observation:
    with serving(leaf, others, staple) as port:
        return await probe("127.0.0.1", port, sni="leaf.test")


DEPLOYED = (LEAF.der, LOWER.der, UPPER.der)


@pytest.mark.parametrize("others", [[LOWER, UPPER], [LOWER, UPPER, ROOT]])
async def test_a_whole_chain_is_well(others: list[Made]) -> None:
    seen = await look(LEAF, others)
    assert seen.chain == tuple(one.der for one in [LEAF, *others])
    assert shortcoming(seen, DEPLOYED) == ""
    assert in_words(seen) == f"TLSv1.3, {1 + len(others)} certificates sent"


@pytest.mark.parametrize(
    "others, problem",
    [
        ([], "its chain is incomplete: without CN=lower and CN=upper, 1 sent of 3; does its configuration name"),
        ([LOWER], "its chain is incomplete: without CN=upper, 2 sent of 3"),
        ([UPPER], "its chain is incomplete: without CN=lower, 2 sent of 3"),
        ([UPPER, LOWER], "its chain is out of order: it sends CN=leaf, CN=upper, CN=lower; due is CN=leaf, CN=lower,"),
        ([LOWER, ROOT, UPPER], "its chain is out of order: it sends CN=leaf, CN=lower, CN=root, CN=upper; due is"),
    ],
)
async def test_what_a_chain_lacks_is_named(others: list[Made], problem: str) -> None:
    assert shortcoming(await look(LEAF, others), DEPLOYED).startswith(problem)


async def test_a_leaf_without_must_staple_needs_no_staple() -> None:
    assert not must_staple(LEAF.der)
    seen = await look(LEAF)
    assert seen.staple == b""
    assert shortcoming(seen, (LEAF.der,)) == ""


async def test_a_good_staple_is_seen() -> None:
    assert must_staple(STAPLED.der)
    seen = await look(STAPLED, staple=response(STAPLED))
    assert shortcoming(seen, (STAPLED.der,)) == ""
    assert in_words(seen) == "TLSv1.3, 1 certificate sent, with a stapled OCSP response"


@pytest.mark.parametrize(
    "staple, problem",
    [
        (b"", "none is sent"),
        (b"rubbish", "what is sent is none"),
        (response(LEAF), "what is sent is about another certificate"),
        (response(STAPLED, ocsp.OCSPCertStatus.REVOKED), "what is sent says that it is revoked"),
        (
            ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER),
            "what is sent says try_later",
        ),
    ],
    ids=["none", "rubbish", "another's", "revoked", "unsuccessful"],
)
async def test_a_staple_that_is_none_is_told(staple: bytes, problem: str) -> None:
    seen = msgspec.structs.replace(await look(STAPLED), staple=staple)  # no server of OpenSSL sends all of these
    assert shortcoming(seen, (STAPLED.der,)) == (
        f"it asks for a stapled OCSP response (must-staple), and {problem}; switch OCSP stapling on there"
    )


async def test_what_cannot_be_read_is_named_so() -> None:
    seen = Observation(b"x", sha256(b"x").hexdigest(), "TLSv1.3", 1.0, (b"x",))
    assert shortcoming(seen, (b"x",)) == ""
    assert "without (unreadable)" in shortcoming(seen, (b"x", b"y"))
