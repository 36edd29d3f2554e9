"""What the ACME benchmark's names lead to."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import dns.message
import dns.query
import dns.rdatatype
import pytest

from benchmarks.lab.acmeclient import Answers


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
