"""What is signed in ACME: JWS in flattened JSON (RFC 8555 section 6.2) with an account's key or a MAC.

Account keys are ECDSA on P-256 or P-384, RSA or Ed25519; a request names its key by ``kid``, the account's address, or
holds it as ``jwk`` where there is no account yet. Signatures come from joserfc.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.registry import HeaderParameter

from core.acme import decode
from core.errors import InvalidInput
from core.keys import KeyAlgorithm, PrivateKey, from_pem, generate
from core.secret import Secret

JWS = dict[str, str]
MAC_ALGORITHMS = ("HS256", "HS384", "HS512")
_LEAST_MAC_BYTES = 16
_SIGNATURES = {KeyAlgorithm.ECDSA_P256: "ES256", KeyAlgorithm.ECDSA_P384: "ES384", KeyAlgorithm.ED25519: "EdDSA"}
_ALLOWED = (*_SIGNATURES.values(), "RS256", *MAC_ALGORITHMS)


class _Registry(jws.JWSRegistry):
    """Knows ACME's headers, and EdDSA by the name that RFC 8555 section 6.2 has for it (RFC 9864 has another)."""

    def get_alg(self, name: str) -> JWSAlgModel:
        """Return one of ours."""
        if name not in _ALLOWED:
            raise UnsupportedAlgorithmError
        return self.algorithms[name]


_REGISTRY = _Registry(
    {
        "nonce": HeaderParameter("Replay-Nonce (RFC 8555 section 6.5.2)", "str"),
        "url": HeaderParameter("Where the request goes (RFC 8555 section 6.4.1)", "str"),
    }
)


class AccountKey:
    """The private key of an account; it shows nothing of itself."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.algorithm = _signature_algorithm(key)
        self._signer = _jose_key(key)

    @classmethod
    def load(cls, pkcs8: Secret[bytes]) -> AccountKey:
        """Read PKCS#8, DER or PEM; raise ``InvalidInput`` without saying anything of its content."""
        if pkcs8.reveal().lstrip().startswith(b"-----"):
            return cls(from_pem(pkcs8))
        try:
            key = serialization.load_der_private_key(pkcs8.reveal(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidInput.of("account_key", "is not an unencrypted private key in PKCS#8") from error
        return cls(key)  # type: ignore[arg-type]  # a key of another kind is refused there

    @classmethod
    def new(cls, algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256) -> AccountKey:
        """Make one. An RSA key may take seconds: call it in a worker thread."""
        return cls(generate(algorithm))

    def pkcs8(self) -> Secret[bytes]:
        """Return it as unencrypted PKCS#8 in DER."""
        encoding, fmt = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
        return Secret(self._key.private_bytes(encoding, fmt, serialization.NoEncryption()))

    @cached_property
    def jwk(self) -> dict[str, Any]:
        """Return the public key (RFC 7517) with the members that RFC 7638 section 3.2 requires, and no other."""
        members = self._signer.as_dict(private=False)
        return {name: members[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in members}

    @cached_property
    def thumbprint(self) -> str:
        """Return the key's thumbprint (RFC 7638), the latter half of a key authorization."""
        return str(self._signer.thumbprint())

    def sign(self, payload: object, *, url: str, nonce: str, kid: str = "") -> JWS:
        """Sign a request; ``payload`` None is a POST-as-GET (RFC 8555 section 6.3)."""
        return self._sign(payload, {"nonce": nonce, "url": url} | ({"kid": kid} if kid else {"jwk": self.jwk}))

    def sign_inner(self, payload: object, *, url: str) -> JWS:
        """Sign what a key change holds inside: with the new key, and without a nonce (RFC 8555 section 7.3.5)."""
        return self._sign(payload, {"jwk": self.jwk, "url": url})

    def _sign(self, payload: object, headers: dict[str, Any]) -> JWS:
        return _signed({"alg": self.algorithm, **headers}, payload, self._signer)


def bind(key: AccountKey, *, kid: str, mac_key: Secret[str], url: str, algorithm: str = "HS256") -> JWS:
    """Bind an account's key to an account outside of ACME (RFC 8555 section 7.3.4); ``mac_key`` is base64url."""
    if algorithm not in MAC_ALGORITHMS:
        raise InvalidInput.of("eab_algorithm", f"is {algorithm!r}; use one of {', '.join(MAC_ALGORITHMS)}")
    try:
        raw = decode(mac_key.reveal().strip().rstrip("=").replace("+", "-").replace("/", "_"))
    except ValueError:
        raise InvalidInput.of("eab_hmac", "is not base64url; copy it as the authority shows it") from None
    if len(raw) < _LEAST_MAC_BYTES:
        raise InvalidInput.of("eab_hmac", f"holds {len(raw)} bytes; a key has {_LEAST_MAC_BYTES} or more")
    return _signed({"alg": algorithm, "kid": kid, "url": url}, key.jwk, OctKey.import_key(raw))


def _signed(headers: dict[str, Any], payload: object, key: ECKey | RSAKey | OKPKey | OctKey) -> JWS:
    body = b"" if payload is None else msgspec.json.encode(payload)
    try:
        signed = jws.serialize_json({"protected": headers}, body, key, registry=_REGISTRY)
    except JoseError as error:
        raise InvalidInput.of("account_key", f"cannot sign as {headers['alg']}; make another") from error
    return {name: str(signed[name]) for name in ("protected", "payload", "signature")}


def _signature_algorithm(key: object) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256"
    match key:
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP256R1):
            return "ES256"
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP384R1):
            return "ES384"
        case _ if type(key).__name__.endswith("Ed25519PrivateKey"):
            return "EdDSA"
    raise InvalidInput.of(
        "account_key", "is of a kind that ACME does not take; use ECDSA P-256 or P-384, RSA or Ed25519"
    )


def _jose_key(key: PrivateKey) -> ECKey | RSAKey | OKPKey:
    encoding, fmt = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(encoding, fmt, serialization.NoEncryption())
    match _signature_algorithm(key):
        case "RS256":
            return RSAKey.import_key(pem)
        case "EdDSA":
            return OKPKey.import_key(pem)
        case _:
            return ECKey.import_key(pem)
