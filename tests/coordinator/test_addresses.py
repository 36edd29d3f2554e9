"""Whose request it is: peers, proxies that are trusted and what callers write into their fields."""

from __future__ import annotations

import ipaddress

import pytest
from werkzeug.datastructures import Headers

from coordinator.limits import buckets
from coordinator.limits.addresses import subject_of
from coordinator.limits.buckets import Buckets, Rate

PROXIES = tuple(ipaddress.ip_network(text) for text in ("10.0.0.0/8", "fd00::/8"))
X, F = "X-Forwarded-For", "Forwarded"

CASES: dict[str, tuple[str, list[tuple[str, str]], str]] = {
    "no proxy": ("192.0.2.1", [], "192.0.2.1"),
    "IPv6 by its network": ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
    "IPv4 in IPv6": ("::ffff:192.0.2.1", [], "192.0.2.1"),
    "a zone": ("fe80::1%eth0", [], "fe80::/64"),
    "no address": ("", [], "unknown"),
    "a stranger's word": ("192.0.2.1", [(X, "198.51.100.1"), (F, "for=198.51.100.1")], "192.0.2.1"),
    "a proxy that says nothing": ("10.0.0.1", [], "10.0.0.1"),
    "a proxy's word": ("10.0.0.1", [(X, "198.51.100.1")], "198.51.100.1"),
    "a proxy in IPv6": ("fd00::1", [(X, "2001:db8::5")], "2001:db8::/64"),
    "what the caller wrote before": ("10.0.0.1", [(X, "203.0.113.9, 198.51.100.1")], "198.51.100.1"),
    "in a field of its own": ("10.0.0.1", [(X, "203.0.113.9"), (X, "198.51.100.1")], "198.51.100.1"),
    "two proxies": ("10.0.0.1", [(X, "203.0.113.9, 198.51.100.1, 10.0.0.2")], "198.51.100.1"),
    "proxies only": ("10.0.0.1", [(X, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
    "nonsense": ("10.0.0.1", [(X, "198.51.100.1, me")], "10.0.0.1"),
    "nonsense behind a proxy": ("10.0.0.1", [(X, "me, 10.0.0.2")], "10.0.0.2"),
    "ports": ("10.0.0.1", [(X, "198.51.100.1:4711")], "198.51.100.1"),
    "RFC 7239": ("10.0.0.1", [(F, 'for=203.0.113.9, for="198.51.100.1:1";proto=https')], "198.51.100.1"),
    "RFC 7239, IPv6": ("10.0.0.1", [(F, 'proto=https;For="[2001:db8::5]:4711"')], "2001:db8::/64"),
    "RFC 7239, hidden": ("10.0.0.1", [(F, "for=_hidden")], "10.0.0.1"),
    "both and the same": ("10.0.0.1", [(X, "198.51.100.1"), (F, "for=198.51.100.1")], "198.51.100.1"),
    "both and different": ("10.0.0.1", [(X, "198.51.100.1"), (F, "for=203.0.113.9")], "10.0.0.1"),
    "very many hops": ("10.0.0.1", [(X, "203.0.113.9," + "10.0.0.2," * 1000 + "10.0.0.3")], "10.0.0.2"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_subject_of_a_request(case: str) -> None:
    peer, fields, subject = CASES[case]
    assert subject_of(peer, Headers(fields), PROXIES) == subject


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert subject_of("10.0.0.1", Headers([(X, "198.51.100.1")]), ()) == "10.0.0.1"


def test_buckets_that_are_full_are_forgotten_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    bucket = Buckets(Rate(10, 20), lambda: now[0])
    for number in range(1000):
        bucket.take(str(number))
    assert len(bucket) == 1000
    now[0] += 0.2
    for _ in range(1000):
        bucket.take("one")
    assert len(bucket) == 1, "those who asked long ago have a full one"
    monkeypatch.setattr(buckets, "MOST_SUBJECTS", 50)
    for number in range(1000):
        bucket.take(str(number))
    assert len(bucket) == 50
    assert bucket.wait_s("one") == 0


def test_in_the_long_run_a_bucket_gives_its_rate_and_not_a_request_more() -> None:
    now = [0.0]
    bucket = Buckets(Rate(50, 100), lambda: now[0])
    taken = 0
    for _ in range(10_000):
        now[0] += 0.001
        taken += bucket.take("one").wait_s == 0
    assert 100 + 10 * 50 - 1 <= taken <= 100 + 10 * 50
