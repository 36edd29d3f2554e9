"""Signed requests (RFC 8555 section 6.2): read, and verified; every rejection with the error that the RFC gives it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from coordinator.enrollment.acme import mldsa
from coordinator.enrollment.acme.mldsa import MLDSAKey
from coordinator.enrollment.acme.problems import Problem
from core import acme

_OF_THE_LIBRARY = ("ES256", "ES384", "RS256", "EdDSA")
"""Signatures; "EdDSA" is what clients call Ed25519, whatever RFC 9864 says."""
ALGORITHMS = (*_OF_THE_LIBRARY, *mldsa.ALGORITHMS)
MAC_ALGORITHMS = ("HS256", "HS384", "HS512")
_LEAST_RSA_BITS, _MOST_RSA_BITS = 2048, 8192
_CURVES = {"P-256": "ES256", "P-384": "ES384"}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
_ALGORITHMS: dict[str, Any] = {
    **{name: JWSRegistry.algorithms[name] for name in (*_OF_THE_LIBRARY, *MAC_ALGORITHMS)},
    **{name: mldsa.Algorithm(name) for name in mldsa.ALGORITHMS},
}
AccountKey = RSAKey | ECKey | OKPKey | MLDSAKey


class _Flattened(msgspec.Struct, forbid_unknown_fields=True):
    """RFC 7515 section 7.2.2, without an unprotected header, which ACME forbids."""

    protected: str
    payload: str
    signature: str


class Header(msgspec.Struct, frozen=True):
    """A protected header: exactly one of ``jwk`` and ``kid``."""

    alg: str
    url: str
    nonce: str = ""
    kid: str = ""
    jwk: dict[str, Any] | None = None


class Request(msgspec.Struct, frozen=True):
    """A signed request whose signature was not looked at yet; ``signed`` is what it is made of."""

    header: Header
    payload: bytes
    signed: bytes
    signature: bytes


def read(body: bytes) -> Request:
    """Return a request in flattened JSON; raise ``Problem``."""
    try:
        outer = msgspec.json.decode(body, type=_Flattened)
        payload, signature = acme.decode(outer.payload), acme.decode(outer.signature)
        fields = msgspec.json.decode(acme.decode(outer.protected), type=dict[str, Any])
        header = msgspec.convert(fields, Header)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        detail = f"the body is no JWS in flattened JSON with a protected header (RFC 8555 section 6.2): {error}"
        raise Problem("malformed", detail[:300]) from error
    unknown = fields.keys() - {"alg", "url", "nonce", "kid", "jwk", "typ", "cty"}
    if "crit" in fields or "b64" in fields or unknown:
        raise Problem(
            "malformed", f"the protected header has fields that ACME has none for: {', '.join(unknown)[:100]}"
        )
    return Request(header, payload, f"{outer.protected}.{outer.payload}".encode(), signature)


def check_header(header: Header, url: str, by: Literal["jwk", "kid", "either"]) -> None:
    """Raise ``Problem`` unless the header suits a request to ``url`` that is signed as ``by`` says."""
    if header.alg not in ALGORITHMS:
        detail = f"the algorithm {header.alg[:40]!r} is not accepted; use one of {', '.join(ALGORITHMS)}"
        raise Problem("badSignatureAlgorithm", detail, members={"algorithms": list(ALGORITHMS)})
    if header.url != url:
        detail = (
            f"the request was signed for {header.url[:200]!r} and came to {url!r}; a proxy may have changed its path"
        )
        raise Problem("unauthorized", detail)
    if (header.jwk is None) == (header.kid == ""):
        raise Problem("malformed", "the protected header needs exactly one of jwk and kid")
    if by == "jwk" and header.jwk is None:
        raise Problem("malformed", "this request is signed with the key in it (jwk), not by an account's URL (kid)")
    if by == "kid" and header.jwk is not None:
        raise Problem("malformed", "this request is signed by an account: send its URL as kid instead of a jwk")


def read_key(jwk: dict[str, Any] | None, alg: str) -> AccountKey:
    """Return a public key that may sign with ``alg``; raise ``Problem``."""
    jwk = jwk or {}
    if _PRIVATE & jwk.keys():
        raise Problem("badPublicKey", "the jwk holds a private key, which nobody may see; make a new one")
    _check_size(jwk)
    try:
        key = _imported(msgspec.json.encode(jwk))
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise Problem("badPublicKey", f"the jwk cannot be read: {error}"[:200]) from error
    match key:
        case ECKey() if jwk.get("crv") in _CURVES:
            fits = alg == _CURVES[jwk["crv"]]
        case RSAKey():
            fits = alg == "RS256"
        case OKPKey() if jwk.get("crv") == "Ed25519":
            fits = alg == "EdDSA"
        case MLDSAKey():
            fits = alg == key.alg
        case _:
            raise Problem("badPublicKey", "use a key on P-256, P-384 or Ed25519, RSA of at least 2048 bits, or ML-DSA")
    if not fits:
        raise Problem("badSignatureAlgorithm", f"{alg} does not fit the key", members={"algorithms": list(ALGORITHMS)})
    return key


@lru_cache(maxsize=1024)
def _imported(jwk: bytes) -> OctKey | RSAKey | ECKey | OKPKey | MLDSAKey:
    """Return a key out of its JSON; an account sends several requests with the same one."""
    fields = msgspec.json.decode(jwk, type=dict[str, Any])
    if fields.get("kty") == mldsa.KEY_TYPE:
        return MLDSAKey.import_key(fields)
    return JWKRegistry.import_key({name: fields[name] for name in fields if name not in {"use", "key_ops", "alg"}})


def _check_size(jwk: dict[str, Any]) -> None:
    """Raise ``Problem`` for an RSA key too small to be safe or too large to be quick, before it is read as one."""
    if jwk.get("kty") != "RSA":
        return
    try:
        bits = int.from_bytes(acme.decode(jwk["n"]), "big").bit_length()
    except (KeyError, ValueError, TypeError) as error:
        raise Problem("badPublicKey", "the jwk's modulus cannot be read") from error
    if not _LEAST_RSA_BITS <= bits <= _MOST_RSA_BITS:
        raise Problem("badPublicKey", f"the RSA key has {bits} bits; use {_LEAST_RSA_BITS} to {_MOST_RSA_BITS}")


def thumbprint(key: AccountKey) -> str:
    """Return the key's thumbprint (RFC 7638)."""
    return key.thumbprint()


def of_public_key(key: CertificatePublicKeyTypes) -> str:
    """Return the thumbprint of a key as a certificate holds it; empty for one that no request can be signed with."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for kind in (ECKey, RSAKey, OKPKey):
        try:
            return str(kind.import_key(pem).thumbprint())
        except (JoseError, ValueError, TypeError):
            continue
    return ""


def verify(request: Request, key: AccountKey) -> None:
    """Raise ``Problem`` unless the request was signed with this key."""
    _verify(request, key)


def verify_mac(request: Request, key: bytes) -> None:
    """Raise ``Problem`` unless a MAC fits: that of an external account binding (section 7.3.4)."""
    _verify(request, OctKey.import_key(key))


def _verify(request: Request, key: AccountKey | OctKey) -> None:
    """Take the algorithm of the header, which ``check_header`` or its like has looked at; the key has to be of it."""
    try:
        algorithm = _ALGORITHMS[request.header.alg]
        algorithm.check_key(key)
        fits = algorithm.verify(request.signed, request.signature, key)
    except (JoseError, ValueError, KeyError) as error:
        raise Problem("unauthorized", "the signature does not fit the request and its key") from error
    if not fits:
        raise Problem("unauthorized", "the signature does not fit the request and its key")
