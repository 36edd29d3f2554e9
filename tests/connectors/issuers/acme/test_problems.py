"""What becomes of an authority's refusals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from connectors.issuers.acme.problems import (
    AccountUnknown,
    AlreadyReplaced,
    AlreadyRevoked,
    BadNonce,
    ExternalAccountRequired,
    RateLimited,
    UserActionRequired,
    error_of,
    failure_of,
    read,
)
from core.acme import URN
from core.errors import CertctlError, Conflict, Forbidden, InvalidInput, NotFound, Refused, TooManyRequests, Transient


def error(status: int, kind: str = "", detail: str = "why", **more: object) -> CertctlError:
    body = json.dumps({"type": URN + kind if kind else "about:blank", "detail": detail, **more})
    return error_of(read(body.encode()), status=status, what="ordering", retry_after_s=0.0)


@pytest.mark.parametrize(
    "status,kind,expected",
    [
        (400, "accountDoesNotExist", AccountUnknown),
        (409, "alreadyReplaced", AlreadyReplaced),
        (400, "alreadyRevoked", AlreadyRevoked),
        (400, "badNonce", BadNonce),
        (400, "badCSR", Refused),
        (400, "caa", Refused),
        (400, "connection", Transient),
        (403, "externalAccountRequired", ExternalAccountRequired),
        (400, "invalidContact", InvalidInput),
        (400, "malformed", Refused),
        (403, "orderNotReady", Conflict),
        (400, "rejectedIdentifier", Refused),
        (500, "serverInternal", Transient),
        (503, "somethingNew", Transient),
        (400, "somethingNew", Refused),
        (403, "unauthorized", Forbidden),
        (400, "", Refused),
        (401, "", Forbidden),
        (404, "", NotFound),
        (408, "", Transient),
        (429, "", TooManyRequests),
        (502, "", Transient),
    ],
)
def test_every_kind_of_refusal_is_one_error(status: int, kind: str, expected: type[CertctlError]) -> None:
    found = error(status, kind)
    assert type(found) is (RateLimited if expected is TooManyRequests else expected)
    assert found.detail.startswith(f"ordering: the authority answered {status}: why")


def test_a_limit_of_rate_says_which_and_for_how_long() -> None:
    moment = (datetime.now(UTC) + timedelta(hours=2)).strftime("%Y-%m-%d %H:%M:%S")
    detail = (
        f"too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after "
        f"{moment} UTC: see https://letsencrypt.org/docs/rate-limits/#new-certificates-per-exact-set-of-identifiers"
    )
    found = error(429, "rateLimited", detail)
    assert isinstance(found, RateLimited)
    assert found.limit == "new-certificates-per-exact-set-of-identifiers"
    assert 7190 < found.retry_after_s <= 7200
    assert found.members == {"limit": found.limit}
    problem, link = read(b"{}"), {"help": "https://letsencrypt.org/docs/rate-limits#new-orders-per-account"}
    other = error_of(problem, status=429, what="ordering", retry_after_s=5.0, links=link)
    assert isinstance(other, RateLimited)
    assert (other.limit, other.retry_after_s) == ("new-orders-per-account", 5.0)
    assert error(403, "rateLimited", "retry after 2020-99-99 00:00:00").retry_after_s == 0.0  # type: ignore[attr-defined]  # it has it


def test_what_a_person_has_to_do_says_where() -> None:
    found = error(403, "userActionRequired", instance="https://ca.test/agreement")
    assert isinstance(found, UserActionRequired)
    assert found.url == "https://ca.test/agreement"
    assert "https://ca.test/agreement" in found.detail


def test_subproblems_stand_by_their_names() -> None:
    parts = [
        {"type": URN + "caa", "detail": "no", "identifier": {"type": "dns", "value": "a.example.com"}},
        {"type": URN + "dns", "detail": "gone\x1b[31m", "identifier": "odd"},
    ]
    found = error(403, "compound", subproblems=parts)
    assert [(each.field, each.problem) for each in found.errors] == [
        ("a.example.com", "caa: no"),
        ("", "dns: gone [31m"),
    ]


def test_words_of_others_are_short_and_harmless() -> None:
    found = error(400, "malformed", "a\r\nb\x1b[2J\u202e" + "x" * 1000)
    assert found.detail.startswith("ordering: the authority answered 400: a b [2J xxx")
    assert len(found.detail) < 600
    assert error_of(read(b"<html>"), status=502, what="x").detail.endswith("no reason was given")


def test_a_failed_name_is_refused_and_what_may_pass_is_transient() -> None:
    assert type(failure_of(read(json.dumps({"type": URN + "unauthorized"}).encode()), "a")) is Refused
    assert type(failure_of(read(json.dumps({"type": URN + "connection"}).encode()), "a")) is Transient
    assert type(failure_of(read(b""), "a")) is Refused
