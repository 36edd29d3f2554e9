"""Files with many certificates: what they hold, what is passed over, and what is refused."""

from __future__ import annotations

import base64

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, pkcs12
from cryptography.x509 import load_pem_x509_certificate

from core.bundles import MOST_ENTRIES, read_keystore, read_pem, read_pkcs12
from core.errors import InvalidInput
from core.foreign import chain_of, read_foreign
from core.secret import Secret

# Made by keytool: a key with its certificate for own.example.test, and the certificate of a root. The password is the
# one of keytool's own examples.
KEYSTORE = base64.b64decode(
    """
    /u3+7QAAAAIAAAACAAAAAgAEcm9vdAAAAaIUBnLDAAVYLjUwOQAAAYMwggF/MIIBJaADAgECAhREEK0P0lJYpYVVj7IdKard+/uHhjAKBggqhkjO
    PQQDAjAUMRIwEAYDVQQDDAlUZXN0IFJvb3QwIBcNMjYxMTI1MTg0NDU2WhgPMjEyNjExMDExODQ0NTZaMBQxEjAQBgNVBAMMCVRlc3QgUm9vdDBZ
    MBMGByqGSM49AgEGCCqGSM49AwEHA0IABGGPpeacpIifDEbZKUDTw4ubdLR5JZjsf8MbXnXiKcVwq2T8PoYVDI1Bgtlyw7r9MD0RP6bq/p4I+TF4
    7B6tXJyjUzBRMB0GA1UdDgQWBBR24vgCTcB93enQ9+GBMF0OoCViXDAfBgNVHSMEGDAWgBR24vgCTcB93enQ9+GBMF0OoCViXDAPBgNVHRMBAf8E
    BTADAQH/MAoGCCqGSM49BAMCA0gAMEUCICD1HBurmZzFVQqTQWwe6jicAA4VNVWas/8npmKtNmxmAiEA8jSbb5k8sZ3cWO/gGyNhzXlQCTTJGGYq
    sCB5Ki+SCLcAAAABAANvd24AAAGiFAZxQwAAAH8wfTAOBgorBgEEASoCEQEBBQAEa9uPibakDGEQK6E4mY16os1I7AhRtZyslnUh+MzfC81i+nUY
    C6ymSIi1Gkav6X29mjK/5I1PykgHqTLgWQYHqgi2JLCtbeZVw+OYwy69oj1meJPVwpwM0vpUA1BJLbBb3l1JRHnMP3T1aAqzAAAAAQAFWC41MDkA
    AAFvMIIBazCCARKgAwIBAgIINsTmP1WltvowCgYIKoZIzj0EAwIwGzEZMBcGA1UEAxMQb3duLmV4YW1wbGUudGVzdDAgFw0yNjExMjUxODQ0NTZa
    GA8yMTI2MTEwMTE4NDQ1NlowGzEZMBcGA1UEAxMQb3duLmV4YW1wbGUudGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABAKJ4op4OQBlTfEO
    9W+hf79HIcq1ePFmyq+7BUV9nrtmI8Vz7MwBdY/kiLOJYqf397iHBBciH9jO53BbrXMT38ejPjA8MB0GA1UdDgQWBBTism+EauCWbiWv/0gH3t1D
    D+pjHjAbBgNVHREEFDASghBvd24uZXhhbXBsZS50ZXN0MAoGCCqGSM49BAMCA0cAMEQCIEf0FrvYP8gSzyVYufoSdZR1q54dBuUTclgFVVCpIRx/
    AiA78DMKS0E0ZPA/SeevVMT8efXVzX0yQfwKh53ih/r2UpZI48jS1SOutIcwOuei1RsyfvkQ
    """
)
JCEKS = base64.b64decode(
    """
    zs7OzgAAAAIAAAABAAAAAwABcwAAAaIUBnRfrO0ABXNyADNjb20uc3VuLmNyeXB0by5wcm92aWRlci5TZWFsZWRPYmplY3RGb3JLZXlQcm90ZWN0
    b3LNV8pZ5zC7UwIAAHhyABlqYXZheC5jcnlwdG8uU2VhbGVkT2JqZWN0PjY9psO3VHACAARbAA1lbmNvZGVkUGFyYW1zdAACW0JbABBlbmNyeXB0
    ZWRDb250ZW50cQB+AAJMAAlwYXJhbXNBbGd0ABJMamF2YS9sYW5nL1N0cmluZztMAAdzZWFsQWxncQB+AAN4cHVyAAJbQqzzF/gGCFTgAgAAeHAA
    AAARMA8ECHp3tsm3IYCNAgMDDUB1cQB+AAUAAACQm6Cm59oje7bNDhoT8wgUT/iAWIu4ft49Pc7+uXF2woBETcFZZ6rji3eDbQej8G61zDOKQ63I
    dTl8Wf2h7mJYV2izDz24s0kKUIU8xDYuXwwxTvxEEWnXNpqcVirfP0wZu7zMiDrHW08bqndde4vDFk0rqG3oKYWzRW9U+LqjP3sM6WCrBOCLvgEF
    Z8oXKBYzdAAWUEJFV2l0aE1ENUFuZFRyaXBsZURFU3QAFlBCRVdpdGhNRDVBbmRUcmlwbGVERVODAwozL1mXvJhOScSoxi04l5yOGg==
    """
)
PASSWORD = Secret("changeit")  # pragma: allowlist secret - keytool's example


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def pem_of(ca: trustme.CA, *names: str) -> tuple[str, str]:
    """Return a certificate and its key."""
    made = ca.issue_cert(*names)
    return made.cert_chain_pems[0].bytes().decode(), made.private_key_pem.bytes().decode()


def test_pem_gives_certificates_and_tells_keys(ca: trustme.CA) -> None:
    leaf, key = pem_of(ca, "a.test")
    text = (
        f"subject=/CN=a.test\n{leaf}between\r\n{key}-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n"
    )
    found = read_pem(text)
    assert [entry.kind for entry in found] == ["certificate", "private key", "other"]
    assert [bool(entry.der) for entry in found] == [True, False, False]
    assert read_foreign(found[0].der).names[0].value == "a.test"


@pytest.mark.parametrize(
    "text", ["", "no pem at all", "-----BEGIN CERTIFICATE-----\nAAAA", "-----END CERTIFICATE-----\n" * 3]
)
def test_pem_without_a_block_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="holds no certificate"):
        read_pem(text)


def test_a_broken_block_is_an_entry_and_does_not_hide_the_next(ca: trustme.CA) -> None:
    leaf, _ = pem_of(ca, "a.test")
    broken = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"
    unfinished = "-----BEGIN CERTIFICATE-----\nAAAA\n"
    found = read_pem(broken + unfinished + leaf)
    assert [bool(entry.der) for entry in found] == [False, True]


def test_too_many_entries_are_refused_and_half_blocks_cost_little() -> None:
    block = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(InvalidInput, match="at most 1000"):
        read_pem(block * (MOST_ENTRIES + 1))
    with pytest.raises(InvalidInput, match="holds no certificate"):
        read_pem("-----BEGIN CERTIFICATE-----\n" * 40_000)


@pytest.mark.parametrize("password", ["", "s3cret"])
def test_pkcs12_gives_all_certificates_and_tells_the_key(ca: trustme.CA, password: str) -> None:
    made = ca.issue_cert("a.test")
    leaf = load_pem_x509_certificate(made.cert_chain_pems[0].bytes())
    root = load_pem_x509_certificate(ca.cert_pem.bytes())
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    truststore = pkcs12.serialize_java_truststore([pkcs12.PKCS12Certificate(root, b"the root")], encryption)
    (entry,) = read_pkcs12(truststore, Secret(password))
    assert (entry.name, entry.kind) == ("the root", "certificate")
    data = pkcs12.serialize_key_and_certificates(b"site", None, leaf, [root], encryption)
    assert [entry.kind for entry in read_pkcs12(data, Secret(password))] == ["certificate"] * 2
    with pytest.raises(InvalidInput, match="opens with this password") as refused:
        read_pkcs12(data[:-5], Secret(password + "no"))
    assert "no" not in str(refused.value).split("opens")[1]


def test_a_java_key_store_gives_certificates_and_tells_keys() -> None:
    found = sorted(read_keystore(KEYSTORE, PASSWORD), key=lambda entry: (entry.name, bool(entry.der)))
    assert [(entry.name, entry.kind) for entry in found] == [
        ("own", "private key"),
        ("own", "certificate"),
        ("root", "certificate"),
    ]
    own, root = (read_foreign(entry.der) for entry in found[1:])
    assert (own.names[0].value, own.is_authority) == ("own.example.test", False)
    assert (root.common_name, root.is_authority) == ("Test Root", True)


@pytest.mark.parametrize(
    "data,password,words",
    [
        (KEYSTORE, "changeme", "does not open"),
        (KEYSTORE[:-1] + b"x", "changeit", "does not open"),
        (KEYSTORE[:100], "changeit", "does not open"),
        (b"", "changeit", "ends in the middle"),
        (JCEKS, "changeit", "JCEKS"),
        (b"0123456789" * 9, "changeit", "no Java key store"),
    ],
)
def test_what_is_no_key_store_or_has_another_password_is_refused(data: bytes, password: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_keystore(data, Secret(password))


def test_a_chain_is_built_from_what_signed_and_ends_before_the_root(ca: trustme.CA) -> None:
    below = ca.create_child_ca()
    made = below.issue_cert("a.test")
    leaf = read_foreign(read_pem(made.cert_chain_pems[0].bytes().decode())[0].der)
    authorities = [
        read_foreign(read_pem(pem.bytes().decode())[0].der)
        for pem in (trustme.CA().cert_pem, ca.cert_pem, below.cert_pem)
    ]
    assert chain_of(leaf, authorities) == [authorities[2]]
    assert chain_of(leaf, authorities[:2]) == []
