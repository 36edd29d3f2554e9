"""Names: one canonical form, and what must never become one."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.names import MAX_DNS_NAME, Name, NameKind, dns_name, from_general_name, parse_name


@pytest.mark.parametrize(
    "text,kind,value",
    [
        ("WWW.Example.COM", "dns", "www.example.com"),
        ("www.example.com.", "dns", "www.example.com"),
        (" www.example.com ", "dns", "www.example.com"),
        ("*.example.com", "dns", "*.example.com"),
        ("*.BÜCHER.example", "dns", "*.xn--bcher-kva.example"),
        ("bücher.example", "dns", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "dns", "xn--bcher-kva.example"),
        ("例え。テスト", "dns", "xn--r8jz45g.xn--zckzah"),
        ("ｗｗｗ.example.com", "dns", "www.example.com"),  # noqa: RUF001 - full width, as East Asian keyboards write it
        ("_service.example.com", "dns", "_service.example.com"),
        ("localhost", "dns", "localhost"),
        ("3com.com", "dns", "3com.com"),
        ("192.0.2.1", "ip", "192.0.2.1"),
        ("2001:DB8:0::1", "ip", "2001:db8::1"),
        ("[2001:db8::1]", "ip", "2001:db8::1"),
        ("Ops@Example.COM", "email", "Ops@example.com"),
        ("spiffe://example.org/api", "uri", "spiffe://example.org/api"),
    ],
)
def test_a_name_has_one_form(text: str, kind: str, value: str) -> None:
    assert parse_name(text) == Name(NameKind(kind), value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "-",
        "a..b",
        ".example.com",
        "-a.example.com",
        "a-.example.com",
        "a b.example.com",
        "a\0.example.com",
        "a\nb.example.com",
        "*",
        "*.",
        "*.com",
        "a*.example.com",
        "www.*.example.com",
        "*.*.example.com",
        "*.192.0.2.1",
        "256.1.1.1",
        "1.2.3",
        "www.example.123",
        "fe80::1%eth0",
        "a" * 64 + ".example.com",
        "ü" * 64 + ".example.com",
        "xn--a.example.com",
        "xn--.example.com",
        "pаypal.example.com",  # noqa: RUF001 - the second letter is Cyrillic, which is the point
        "xn--pypal-4ve.example.com",
        "www.example\u202e.com",
        "www\u200b.example.com",
        "www\u00ad.example.com",
        "@example.com",
        "ops@*.example.com",
        "a" * 250 + "@example.com",
        "https://example.com/" + "a" * 2000,
        "a b@example.com",
        "ops@",
        "ops@-.com",
        "spiffe://",
        "https://[",
        "https://a\n.example.com/",
        "https://bücher.example/",
    ],
)
def test_what_is_no_name_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_name(text, field="sans[7]")
    assert [error.field for error in refused.value.errors] == ["sans[7]"]
    assert len(refused.value.detail) < 300


def test_a_dns_name_has_at_most_253_characters_its_wildcard_included() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert len(longest) == MAX_DNS_NAME
    assert dns_name(longest) == dns_name(longest + ".") == longest
    for text in (longest + "a", "*." + longest, "a." * 150):
        with pytest.raises(InvalidInput, match="253"):
            dns_name(text)


@given(st.text(max_size=300))
@example("İ.example.com")
@example("ß.example.com")
@example("a\u0301.example.com")
@example("https://[::1")
@example("a@b@c")
def test_whatever_is_read_keeps_its_form_and_fits_into_a_certificate(text: str) -> None:
    try:
        name = parse_name(text)
    except InvalidInput:
        return
    assert parse_name(str(name)) == name
    assert from_general_name(name.general_name()) == name
    assert str(name).isascii()


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda label: label[2:4] != "--")


@given(st.lists(LABEL, min_size=2, max_size=5).filter(lambda labels: not labels[-1].isdigit()), st.booleans())
def test_ordinary_host_names_are_taken_as_they_are(labels: list[str], wildcard: bool) -> None:
    text = ("*." if wildcard else "") + ".".join(labels)
    assert parse_name(text.upper()) == Name(NameKind.DNS, text)


@given(st.ip_addresses())
def test_addresses_are_taken_as_they_print(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert parse_name(str(address)) == Name(NameKind.IP, str(address))


@pytest.mark.parametrize(
    "name",
    [
        x509.DirectoryName(x509.Name([])),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
        x509.IPAddress(ipaddress.ip_network("192.0.2.0/24")),
        x509.DNSName("*"),
    ],
)
def test_other_names_of_a_request_are_refused(name: x509.GeneralName) -> None:
    with pytest.raises(InvalidInput, match="csr"):
        from_general_name(name)
