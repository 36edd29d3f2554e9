"""Amazon's published examples of Signature Version 4: its test suite, and the one of the IAM user guide."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from connectors.issuers.acme.dns.signature_v4 import Credentials, signed
from core.secret import Secret

NOW = datetime(2015, 8, 30, 12, 36, 0, tzinfo=UTC)
SESSION_TOKEN = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"
UNRESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def credentials(**changes: str | Secret[str]) -> Credentials:
    fields = {
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        "region": "us-east-1",
        "service": "service",
    }
    return Credentials(**{**fields, **changes})  # type: ignore[arg-type]  # each test gives the right types


SUITE = {
    "get-vanilla": ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "post-vanilla": ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "get-utf8": ("GET", "/\u1234", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    "get-space": (
        "GET",
        "/example space/",
        "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    ),
    "get-vanilla-query-order-key-case": (
        "GET",
        "/?Param2=value2&Param1=value1",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "get-vanilla-query-order-encoded": (
        "GET",
        "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
        "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
    ),
    "get-vanilla-query-unreserved": (
        "GET",
        f"/?{UNRESERVED}={UNRESERVED}",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
    ),
    "get-vanilla-utf8-query": (
        "GET",
        "/?\u1234=bar",
        "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    ),
}


@pytest.mark.parametrize("name", SUITE)
def test_requests_of_the_suite_are_signed_as_it_says(name: str) -> None:
    method, path, signature = SUITE[name]
    headers = signed(credentials(), method, f"https://example.amazonaws.com{path}", now=NOW)
    assert headers == {
        "host": "example.amazonaws.com",
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}",
    }


def test_a_session_token_is_sent_and_signed() -> None:
    given = credentials(session_token=Secret(SESSION_TOKEN))
    headers = signed(given, "GET", "https://example.amazonaws.com/", now=NOW)
    assert headers["x-amz-security-token"] == SESSION_TOKEN
    assert headers["authorization"].endswith(
        "SignedHeaders=host;x-amz-date;x-amz-security-token, "
        "Signature=07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"
    )


def test_headers_are_signed_without_superfluous_spaces() -> None:
    given = {"My-Header1": " value1", "My-Header2": ' "a   b   c"'}
    headers = signed(credentials(), "GET", "https://example.amazonaws.com/", now=NOW, headers=given)
    assert headers["authorization"].endswith(
        "SignedHeaders=host;my-header1;my-header2;x-amz-date, "
        "Signature=acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"
    )


def test_a_body_is_signed_by_its_hash() -> None:
    body = b"Param1=value1"
    given = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": "13",
        "X-Amz-Content-Sha256": "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e",
    }
    headers = signed(credentials(), "POST", "https://example.amazonaws.com/", now=NOW, body=body, headers=given)
    assert headers["authorization"].endswith(
        "SignedHeaders=content-length;content-type;host;x-amz-content-sha256;x-amz-date, "
        "Signature=d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"
    )


def test_the_example_of_the_user_guide() -> None:
    headers = signed(
        credentials(service="iam"),
        "GET",
        "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
        now=NOW,
        headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
    )
    assert headers["authorization"].endswith(
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )
