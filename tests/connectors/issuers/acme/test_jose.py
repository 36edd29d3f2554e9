"""Signatures of ACME, checked by other code than what makes them, and with the examples of the RFCs."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from connectors.issuers.acme.jose import JWS, AccountKey, bind
from core.acme import decode, encode
from core.errors import InvalidInput
from core.keys import KeyAlgorithm, PublicKey, generate, to_pem
from core.secret import Secret

URL = "https://ca.test/new-order"
ALGORITHMS = {
    KeyAlgorithm.ECDSA_P256: "ES256",
    KeyAlgorithm.ECDSA_P384: "ES384",
    KeyAlgorithm.RSA_2048: "RS256",
    KeyAlgorithm.ED25519: "EdDSA",
}


def protected(jws: JWS) -> dict[str, Any]:
    assert set(jws) == {"protected", "payload", "signature"}
    read: dict[str, Any] = json.loads(decode(jws["protected"]))
    return read


def public(key: AccountKey) -> PublicKey:
    loaded = serialization.load_der_private_key(key.pkcs8().reveal(), None).public_key()
    assert isinstance(loaded, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey)
    return loaded


def verify(key: PublicKey, jws: JWS) -> None:
    signed, signature = f"{jws['protected']}.{jws['payload']}".encode(), decode(jws["signature"])
    match key:
        case ec.EllipticCurvePublicKey():
            half = len(signature) // 2
            numbers = (int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
            digest = hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256()
            key.verify(encode_dss_signature(*numbers), signed, ec.ECDSA(digest))
        case rsa.RSAPublicKey():
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        case _:
            key.verify(signature, signed)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_requests_are_signed_by_every_kind_of_key(algorithm: KeyAlgorithm) -> None:
    key = AccountKey.new(algorithm)
    first = key.sign({"a": 1}, url=URL, nonce="n0")
    header = {"alg": ALGORITHMS[algorithm], "nonce": "n0", "url": URL}
    assert protected(first) == header | {"jwk": key.jwk}
    assert json.loads(decode(first["payload"])) == {"a": 1}
    verify(public(key), first)
    later = key.sign(None, url=URL, nonce="n0", kid="https://ca.test/account/1")
    assert protected(later) == header | {"kid": "https://ca.test/account/1"}
    assert later["payload"] == ""
    verify(public(key), later)
    assert "d" not in key.jwk
    assert key.thumbprint == encode(
        hashlib.sha256(json.dumps(key.jwk, sort_keys=True, separators=(",", ":")).encode()).digest()
    )


def test_the_inner_signature_of_a_key_change_has_no_nonce() -> None:
    new = AccountKey.new(KeyAlgorithm.ECDSA_P384)
    inner = new.sign_inner({"account": "a"}, url=URL)
    assert protected(inner) == {"alg": "ES384", "jwk": new.jwk, "url": URL}
    verify(public(new), inner)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_an_account_is_bound_by_a_mac(algorithm: str) -> None:
    key, mac = AccountKey.new(), bytes(range(48))
    bound = bind(key, kid="kid-1", mac_key=Secret(encode(mac)), url=URL, algorithm=algorithm)
    assert protected(bound) == {"alg": algorithm, "kid": "kid-1", "url": URL}
    assert json.loads(decode(bound["payload"])) == key.jwk
    signed = f"{bound['protected']}.{bound['payload']}".encode()
    assert decode(bound["signature"]) == hmac.digest(mac, signed, f"sha{algorithm[2:]}")


@pytest.mark.parametrize(
    "mac,algorithm,field",
    [
        ("no base64 at all!", "HS256", "eab_hmac"),
        (encode(b"short"), "HS256", "eab_hmac"),
        ("", "none", "eab_algorithm"),
    ],
)
def test_what_cannot_bind_is_told_by_its_field(mac: str, algorithm: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        bind(AccountKey.new(), kid="k", mac_key=Secret(mac), url=URL, algorithm=algorithm)
    assert caught.value.errors[0].field == field
    assert not mac or mac not in str(caught.value)


def test_a_mac_key_is_taken_as_people_paste_it() -> None:
    key, mac = AccountKey.new(), b"\xff\xfe\xfd" * 11
    pasted = " " + encode(mac).replace("-", "+").replace("_", "/") + "=\n"
    assert bind(key, kid="k", mac_key=Secret(pasted), url=URL) == bind(
        key, kid="k", mac_key=Secret(encode(mac)), url=URL
    )


def test_keys_go_in_and_out_as_pkcs8_and_show_nothing() -> None:
    key = AccountKey.new()
    again = AccountKey.load(key.pkcs8())
    assert again.thumbprint == key.thumbprint
    private = generate(KeyAlgorithm.ED25519)
    assert AccountKey.load(to_pem(private)).algorithm == "EdDSA"
    assert str(key.pkcs8()) == "********"
    assert "object at" in repr(key)


@pytest.mark.parametrize("content", [b"", b"\x30\x00", b"-----BEGIN nothing"])
def test_what_is_no_key_is_refused_without_its_content(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="PKCS#8"):
        AccountKey.load(Secret(content))


def test_a_key_that_acme_does_not_know_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with pytest.raises(InvalidInput, match="use ECDSA P-256 or P-384, RSA or Ed25519"):
        AccountKey.load(Secret(der))


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    """RFC 8037 appendix A.3 has an Ed25519 key and its thumbprint."""
    raw = decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")  # pragma: allowlist secret
    pem = to_pem(ed25519.Ed25519PrivateKey.from_private_bytes(raw))
    assert AccountKey.load(pem).thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # pragma: allowlist secret
