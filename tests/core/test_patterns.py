"""Patterns of names: what each kind stands for, and that none of them reaches further than it looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.keys import KeyAlgorithm, KeyRule, chosen_algorithms
from core.names import NameKind, parse_name
from core.patterns import check_pattern, kind_of, matches, spiffe_problem

FITS = [
    ("www.example.com", "www.example.com"),
    ("www.example.com", "*.example.com"),
    ("www.example.com", "W*.Example.com"),
    ("*.example.com", "*.example.com"),
    ("a.b.example.com", "**.example.com"),
    ("localhost", "**"),
    ("10.1.2.3", "10.0.0.0/8"),
    ("10.1.2.3", "10.1.2.3"),
    ("2001:db8::1", "2001:db8::/32"),
    ("ada@example.com", "*@example.com"),
    ("ada@mail.example.com", "*@*.example.com"),
    ("spiffe://example.org/ns/shop/sa/api", "spiffe://example.org/ns/*/sa/*"),
    ("spiffe://example.org/ns/shop/sa/api", "spiffe://example.org/**"),
    ("https://a.example.org:8443/x", "https://*.example.org:8443/*"),
    ("https://example.org", "https://example.org"),
]
FITS_NOT = [
    ("a.b.example.com", "*.example.com"),
    ("example.com", "*.example.com"),
    ("example.com", "**.example.com"),
    ("wwwexample.com", "www.example.com"),
    ("11.1.2.3", "10.0.0.0/8"),
    ("10.1.2.3", "**"),
    ("ada@example.com", "**"),
    ("ada@evil.example.com", "*@example.com"),
    ("ada@example.com.evil.test", "*@example.com"),
    ("www.example.com", "*@example.com"),
    ("https://evil.test/.example.org/x", "https://*.example.org/*"),
    ("https://evil.test:8443/x", "https://*.example.org:8443/*"),
    ("https://a.example.org:1/x", "https://*.example.org/*"),
    ("https://a.example.org@evil.test/x", "https://*.example.org/*"),
    ("https://evil.test\\.example.org/x", "https://**.example.org/*"),
    ("http://a.example.org/x", "https://*.example.org/*"),
    ("spiffe://example.org/ns/a/b/sa/api", "spiffe://example.org/ns/*/sa/*"),
    ("spiffe://example.org/ns/../admin", "spiffe://example.org/ns/**"),
    ("spiffe://example.org/ns/a?x", "spiffe://example.org/ns/*"),
    ("spiffe://example.org", "spiffe://example.org/**"),
]


@pytest.mark.parametrize("name,pattern", FITS)
def test_a_pattern_stands_for(name: str, pattern: str) -> None:
    assert matches(parse_name(name), check_pattern(pattern, field="x"))


@pytest.mark.parametrize("name,pattern", FITS_NOT)
def test_a_pattern_does_not_stand_for(name: str, pattern: str) -> None:
    assert not matches(parse_name(name), check_pattern(pattern, field="x"))


@pytest.mark.parametrize(
    "pattern,kind",
    [
        ("*.example.com", NameKind.DNS),
        ("10.0.0.0/8", NameKind.IP),
        ("::1", NameKind.IP),
        ("*@example.com", NameKind.EMAIL),
        ("spiffe://example.org/*", NameKind.URI),
    ],
)
def test_a_pattern_is_about_one_kind(pattern: str, kind: NameKind) -> None:
    assert kind_of(pattern) is kind


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a b.example.com",
        "bücher.example",
        ".example.com",
        "a**.example.com",
        "**.**.**.com",
        "10.0.0.1/8",
        "10.0.0.*.1",
        "@example.com",
        "*@",
        "a@b@c.com",
        "://example.org",
        "spiffe://",
        "https://u@example.org/",
        "https://example.org/?x",
        "https://exa mple.org/",
        "https://example.org/a**",
    ],
)
def test_a_pattern_that_means_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_pattern(pattern, field="allowed_names[3]")
    assert refused.value.errors[0].field == "allowed_names[3]"


LABEL = st.text("abz09", min_size=1, max_size=5).map(lambda text: f"n{text}")


@given(st.lists(LABEL, min_size=1, max_size=5), st.integers(0, 4))
def test_a_star_is_exactly_one_label(labels: list[str], place: int) -> None:
    name = parse_name(".".join([*labels, "test"]))
    starred = [*labels, "test"]
    starred[place % len(labels)] = "*"
    assert matches(name, ".".join(starred))
    assert not matches(name, ".".join(["*", *starred]))
    assert not matches(name, ".".join(starred[1:]))


@pytest.mark.parametrize(
    "uri,good",
    [
        ("spiffe://example.org/ns/a", True),
        ("spiffe://example.org", True),
        ("spiffe://Example.org/a", False),
        ("spiffe://example.org/", False),
        ("spiffe://example.org//a", False),
        ("spiffe://example.org/a/../b", False),
        ("spiffe://example.org:80/a", False),
        ("https://example.org/a", False),
    ],
)
def test_what_a_spiffe_id_is(uri: str, good: bool) -> None:
    assert (spiffe_problem(uri) == "") is good


def test_a_family_stands_for_its_algorithms_from_a_size_on() -> None:
    chosen = chosen_algorithms([KeyAlgorithm.ED25519, KeyRule("RSA", 3000), KeyRule("ECDSA")], field="keys")
    assert chosen == ("ed25519", "rsa-3072", "rsa-4096", "ecdsa-p256", "ecdsa-p384")
    with pytest.raises(InvalidInput, match="4096") as refused:
        chosen_algorithms([KeyRule("RSA"), KeyRule("RSA", 8192)], field="keys")
    assert refused.value.errors[0].field == "keys[1].min_size"
