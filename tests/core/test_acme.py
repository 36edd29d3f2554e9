"""What both ends of ACME compute, held against the examples of the RFCs."""

from __future__ import annotations

import pytest

from core import acme
from core.errors import InvalidInput
from core.names import Name, NameKind


def test_certificate_id_of_rfc_9773() -> None:
    """Section 4.1's example: this key identifier and serial number give this identifier."""
    key_id, serial = bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4"), 0x8765_4321
    found = acme.certificate_id(key_id, serial)
    assert found == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
    assert acme.read_certificate_id(found) == (key_id.hex(), "87654321")


@pytest.mark.parametrize("wrong", ["", ".", "a", "AA", "AA.", ".AA", "AA.AA.AA", "AA=.AA", "A.AA", "AB.AA", "A+.AA"])
def test_wrong_certificate_ids(wrong: str) -> None:
    """Anything but two pieces of base64url in their one form is refused."""
    with pytest.raises(InvalidInput):
        acme.read_certificate_id(wrong)


def test_dns_names() -> None:
    """Wildcards are validated at the name they hang on; the account's label is the draft's own example."""
    assert acme.dns_name("*.example.org") == "_acme-challenge.example.org"
    url = "https://example.com/acme/acct/ExampleAccount"
    assert acme.dns_name("example.org", url) == "_ujmmovf2vn55tgye._acme-challenge.example.org"
    assert acme.dns_name("*.example.org", persist=True) == "_validation-persist.example.org"


def test_alpn_server_names() -> None:
    """RFC 8738 section 6: an address goes by its reverse name."""
    assert acme.alpn_server_name(Name(NameKind.DNS, "a.example")) == "a.example"
    assert acme.alpn_server_name(Name(NameKind.IP, "192.0.2.1")) == "1.2.0.192.in-addr.arpa"
    v6 = acme.alpn_server_name(Name(NameKind.IP, "2001:db8::1"))
    assert v6.endswith(".8.b.d.0.1.0.0.2.ip6.arpa")


def test_challenges_of_one_key_authorization() -> None:
    """RFC 8555 section 8.1's form; the digest is the same for DNS and TLS."""
    key_authorization = acme.key_authorization("token", "thumb")
    assert key_authorization == "token.thumb"
    digest = acme.decode(acme.txt_value(key_authorization))
    assert acme.alpn_extension(key_authorization).value == b"\x04\x20" + digest
