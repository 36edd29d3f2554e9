"""ID tokens: checked as OpenID Connect Core section 3.1.3.7 says, more strictly where it leaves a choice. Pure.

Only signatures of key pairs are taken. What a token says of itself decides nothing but which of the provider's keys is
tried: no ``none``, no HMAC (with a public key as its secret anybody could sign), no key out of the token's header.
Encrypted tokens are not read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.util import urlsafe_b64decode

from core.errors import Unauthenticated
from core.secret import Secret

Key = RSAKey | ECKey | OKPKey
MOST_BYTES = 64 * 1024
LEEWAY_S = 60
OLDEST_S = 600
"""A token comes from the provider in the moment it was made; an older one is a replay."""
_MOST_KEYS = 50
_LEAST_RSA_BITS = 2048
_PUBLIC = frozenset({"kty", "kid", "alg", "n", "e", "crv", "x", "y"})
_KINDS: dict[str, type[Key]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSAKey),
    **dict.fromkeys(("ES256", "ES384", "ES512"), ECKey),
    **dict.fromkeys(("EdDSA", "Ed25519"), OKPKey),
}
ALGORITHMS = tuple(_KINDS)


class _Registry(jws.JWSRegistry):
    """Takes headers with certificates in them, which some providers send; they are not looked at."""

    max_header_length = 16 * 1024

    def get_alg(self, name: str) -> JWSAlgModel:
        """Return one of ours, also under the older name of EdDSA, which many providers still use (RFC 9864)."""
        if name not in _KINDS:
            raise UnsupportedAlgorithmError
        return self.algorithms[name]


class Expected(NamedTuple):
    """What a token has to say: who made it, for whom, in which sign-in."""

    issuer: str
    client_id: str
    nonce: str
    now: datetime


class UnknownKey(Unauthenticated):
    """No key of the provider fits the token; perhaps it has a newer one."""


def read_keys(document: bytes) -> list[Key]:
    """Return the keys of a JWK Set (RFC 7517) that sign; what is unknown or weak is left out.

    Raises ``ValueError`` for what is no JWK Set.
    """
    try:
        entries = msgspec.json.decode(document, type=dict[str, Any]).get("keys")
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    if not isinstance(entries, list) or len(entries) > _MOST_KEYS:
        message = f"is no JWK Set of at most {_MOST_KEYS} keys"
        raise ValueError(message)
    return [key for key in map(_key, entries) if key is not None]


def _key(entry: object) -> Key | None:
    kinds: dict[str, type[Key]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    kind = kinds.get(str(entry.get("kty")))
    if kind is None:
        return None
    try:
        if kind is RSAKey and len(urlsafe_b64decode(entry["n"].encode()).lstrip(b"\0")) * 8 < _LEAST_RSA_BITS:
            return None
        return kind.import_key({name: value for name, value in entry.items() if name in _PUBLIC})
    except (JoseError, ValueError, TypeError, KeyError):  # what the library says of broken keys differs by kind
        return None


def verify(token: Secret[str], keys: Sequence[Key], expected: Expected, access_token: Secret[str]) -> dict[str, Any]:
    """Return the claims of an ID token; raise ``Unauthenticated`` that says what is wrong, or ``UnknownKey``."""
    if len(token.reveal()) > MOST_BYTES:
        raise _wrong("is too long")
    try:
        signed = jws.extract_compact(token.reveal().encode(), registry=_Registry(strict_check_header=False))
    except (JoseError, ValueError, RecursionError) as error:
        raise _wrong("is no signed token") from error
    header = signed.headers()
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in _KINDS or "crit" in header or "b64" in header:
        raise _wrong(f"is signed in a way that is not taken ({str(algorithm)[:20]!r})")
    if not any(_signed_by(signed, key, algorithm) for key in _fitting(keys, algorithm, header.get("kid"))):
        raise _wrong("is not signed by the provider")
    try:
        claims = msgspec.json.decode(signed.payload, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _wrong("holds no claims") from error
    _check_parties(claims, expected)
    _check_times(claims, expected.now.timestamp())
    _check_binding(claims, expected.nonce, algorithm, access_token)
    return claims


def _fitting(keys: Sequence[Key], algorithm: str, kid: object) -> list[Key]:
    kind = _KINDS[algorithm]
    found = [key for key in keys if isinstance(key, kind) and (key.get("alg") or algorithm) == algorithm]
    if kid is not None:
        found = [key for key in found if key.get("kid") == kid]
    if not found:
        detail = "the identity provider's token is signed with a key that it does not publish"
        raise UnknownKey(detail)
    return found


def _signed_by(signed: jws.CompactSignature, key: Key, algorithm: str) -> bool:
    registry = _Registry(algorithms=[algorithm], strict_check_header=False)
    try:
        return jws.validate_compact(signed, key, registry=registry)
    except (JoseError, ValueError):
        return False


def _check_parties(claims: Mapping[str, Any], expected: Expected) -> None:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if claims.get("iss") != expected.issuer:
        raise _wrong("comes from another issuer")
    if expected.client_id not in audiences:
        raise _wrong("is for another application")
    if claims.get("azp", expected.client_id) != expected.client_id or (len(audiences) > 1 and "azp" not in claims):
        raise _wrong("was given to another application")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:  # noqa: PLR2004 - as the specification says
        raise _wrong("names nobody")


def _check_times(claims: Mapping[str, Any], now_s: float) -> None:
    ends, made = _time(claims, "exp"), _time(claims, "iat")
    if ends <= now_s - LEEWAY_S:
        raise _wrong("has expired; compare the clocks of both hosts")
    if made > now_s + LEEWAY_S or ("nbf" in claims and _time(claims, "nbf") > now_s + LEEWAY_S):
        raise _wrong("is of the future; compare the clocks of both hosts")
    if made < now_s - OLDEST_S:
        raise _wrong("is an old one; compare the clocks of both hosts")


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(f"does not say {name}")
    return float(value)


def _check_binding(claims: Mapping[str, Any], nonce: str, algorithm: str, access_token: Secret[str]) -> None:
    if not hmac.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
        raise _wrong("belongs to another sign-in")
    if "at_hash" in claims and access_token.reveal() and algorithm[-3:] in {"256", "384", "512"}:
        whole = hashlib.new(f"sha{algorithm[-3:]}", access_token.reveal().encode()).digest()
        half = base64.urlsafe_b64encode(whole[: len(whole) // 2]).decode().rstrip("=")
        if claims["at_hash"] != half:
            raise _wrong("belongs to another access token")


def _wrong(what: str) -> Unauthenticated:
    return Unauthenticated(f"the identity provider's token {what}; sign in again")
