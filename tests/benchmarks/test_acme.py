"""What the ACME benchmark's names lead to, and the clients that get certificates in the demo."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from benchmarks.lab import acmehost
from benchmarks.lab.acmeclient import EAB, Answers
from benchmarks.lab.fleet import Coordinator


@pytest.fixture
def answers() -> Iterator[Answers]:
    with Answers().running() as running:
        yield running


@pytest.mark.parametrize("ask", [dns.query.udp, dns.query.tcp])
def test_every_name_leads_to_this_host(answers: Answers, ask: object) -> None:
    assert callable(ask)
    for kind, found in ((dns.rdatatype.A, ["127.0.0.1"]), (dns.rdatatype.AAAA, []), (dns.rdatatype.CAA, [])):
        question = dns.message.make_query("n1.c2.example.test", kind, use_edns=True)
        reply = ask(question, "127.0.0.1", port=answers.dns_port, timeout=10)
        assert [str(record) for each in reply.answer for record in each] == found


def test_known_tokens_are_answered(answers: Answers) -> None:
    answers.tokens["known"] = "known.thumbprint"
    for token, text in (("known", b"known.thumbprint"), ("other", b""), ("known", b"known.thumbprint")):
        connection = http.client.HTTPConnection("127.0.0.1", answers.http_port, timeout=10)
        connection.request("GET", f"/.well-known/acme-challenge/{token}")
        assert connection.getresponse().read() == text
        connection.close()


@pytest.mark.slow
def test_a_bound_account_gets_a_certificate_by_certbot_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo takes what is there."""
    coordinator = Coordinator(tmp_path / "coordinator", {"CERTCTL_ACME_SERVER_ENABLED": "true"})
    try:
        api = coordinator.start().api()
        for path, client in ((os.environ["PATH"], "certbot"), ("/nowhere", "a small ACME client")):
            monkeypatch.setenv("PATH", path)
            made = api.post("/api/v1/acme-eab-keys", {"name": client, "allowed_names": ["guest.example.test"]})
            eab = EAB(made["id"], made["hmac_key"])
            directory = f"{coordinator.url}/acme/directory"
            got = acmehost.obtain(tmp_path / "acme", directory, coordinator.ca_path, eab, "guest.example.test")
            leaf, _issuer = x509.load_pem_x509_certificates(got.chain)
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert (got.client, names.get_values_for_type(x509.DNSName)) == (client, ["guest.example.test"])
            assert leaf.public_key() == serialization.load_pem_private_key(got.key, None).public_key()
    finally:
        coordinator.close()
        coordinator.process.stop()
