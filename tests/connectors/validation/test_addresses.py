"""Which addresses may be dialled, also those that hide in other ones."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from connectors.validation.addresses import why_refused

ALL = (ip_network("0.0.0.0/0"), ip_network("::/0"))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "2606:4700::1111",
        "fd12:3456::1",
        "::ffff:10.0.0.1",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_public_and_private_addresses_are_dialled(address: str) -> None:
    assert why_refused(ip_address(address)) == ""


@pytest.mark.parametrize(
    "address,why",
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "reserved"),
        ("192.0.0.8", "reserved"),
        ("192.0.2.1", "documentation"),
        ("198.18.0.1", "benchmarks"),
        ("2001:db8::1", "documentation"),
        ("fec0::1", "reserved"),
        ("4000::1", "reserved"),
        ("100::1", "reserved"),
        ("2001:2::1", "reserved"),
        ("64:ff9b:1::a00:1", "translator"),
        ("::ffff:127.0.0.1", "hides 127.0.0.1"),
        ("::127.0.0.1", "hides 127.0.0.1"),
        ("::ffff:0:127.0.0.1", "hides 127.0.0.1"),
        ("64:ff9b::127.0.0.1", "hides 127.0.0.1"),
        ("2002:7f00:1::1", "hides 127.0.0.1"),
        ("2001:0:808:808::80ff:fffe", "hides 127.0.0.1"),
        ("2001:0:7f00:1::f7f7:f7f7", "hides 127.0.0.1"),
        ("fd00::5efe:7f00:1", "hides 127.0.0.1"),
        ("2600::200:5efe:7f00:1", "hides 127.0.0.1"),
    ],
)
def test_addresses_that_lead_inside(address: str, why: str) -> None:
    """They are refused, and dialled once their network is allowed; a hidden one in its own form."""
    assert why in why_refused(ip_address(address))
    assert why_refused(ip_address(address), ALL) == ""


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
    ],
)
def test_metadata_services_are_never_dialled(address: str) -> None:
    """No network that is allowed covers them."""
    assert "metadata" in why_refused(ip_address(address), ALL)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "172.31.0.1", "192.168.0.1", "100.127.0.1", "fd12::1", "::ffff:10.0.0.1", "2002:a00:1::"]
)
def test_private_networks_are_dialled_where_that_is_said(address: str) -> None:
    """Or where they are allowed by name; those beside them always."""
    assert why_refused(ip_address(address)) == ""
    assert "is a private address" in why_refused(ip_address(address), private=False)
    assert why_refused(ip_address(address), ALL, private=False) == ""
    assert why_refused(ip_address("172.32.0.1"), private=False) == ""
    assert why_refused(ip_address("100.128.0.1"), private=False) == ""


def test_an_allowed_network_is_that_one_only() -> None:
    """Allowing the form in which an address hides does not allow the address."""
    allowed = (ip_network("127.0.0.0/30"), ip_network("::ffff:0:0/96"))
    assert why_refused(ip_address("127.0.0.3"), allowed) == ""
    assert why_refused(ip_address("127.0.0.4"), allowed)
    assert why_refused(ip_address("::ffff:127.0.0.4"), allowed)
