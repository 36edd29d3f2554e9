"""A lean ACME client over a world's HTTP: what it sends can be bent in every place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA65PrivateKey, MLDSA87PrivateKey
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter

from core import acme
from core.csr import build_csr
from core.keys import KeyAlgorithm, generate
from core.names import Name, parse_name
from tests.coordinator.world import World

ON = {"CERTCTL_ACME_SERVER_ENABLED": "true", "CERTCTL_ACME_SERVER_ALLOW_OPEN_TRUST": "true"}
JOSE = {"Content-Type": "application/jose+json"}
URN = acme.URN


class _Registry(JWSRegistry):
    max_header_length = 8192

    def get_alg(self, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return super().get_alg(name)


_REGISTRY = _Registry(
    {name: HeaderParameter(name, "str") for name in ("nonce", "url")},
    ["ES256", "ES384", "RS256", "EdDSA", "HS256", "PS256", "ES512", "none"],
    strict_check_header=False,
)


class MLDSAKeyPair:
    """A private key of RFC 9964, with as much of the library's ways as is needed here."""

    def __init__(self, alg: str, private: MLDSA44PrivateKey | MLDSA65PrivateKey | MLDSA87PrivateKey) -> None:
        self.alg, self.private = alg, private

    def as_dict(self, *, private: bool) -> dict[str, str]:
        jwk = {"kty": "AKP", "alg": self.alg, "pub": acme.encode(self.private.public_key().public_bytes_raw())}
        return {**jwk, "priv": acme.encode(self.private.private_bytes_raw())} if private else jwk

    def signed(self, header: Mapping[str, Any], payload: bytes) -> str:
        parts = f"{acme.encode(msgspec.json.encode(header))}.{acme.encode(payload)}"
        return f"{parts}.{acme.encode(self.private.sign(parts.encode()))}"


Key = ECKey | RSAKey | OKPKey | OctKey | MLDSAKeyPair


def new_key() -> ECKey:
    return ECKey.generate_key("P-256")


def signed(header: Mapping[str, Any], payload: bytes, key: Key) -> dict[str, str]:
    """Return flattened JSON with exactly this header."""
    if isinstance(key, MLDSAKeyPair):
        text = key.signed(header, payload)
    else:
        text = jws.serialize_compact(dict(header), payload, key, registry=_REGISTRY)
    protected, body, signature = text.split(".")
    return {"protected": protected, "payload": body, "signature": signature}


class Client:
    """One account key at one directory."""

    def __init__(self, world: World, base: str = "/acme", key: Key | None = None) -> None:
        self.world = world
        self.url = f"{world.ctx.settings.url}{base}"
        self.key: Any = key or new_key()
        self.alg = "ES256"
        self.kid = ""
        self.nonce = ""

    def path(self, url: str) -> str:
        return url.removeprefix(self.world.ctx.settings.url)

    async def fresh_nonce(self) -> str:
        response = await self.world.http.head(self.path(f"{self.url}/new-nonce"))
        assert response.status_code == 200
        return response.headers["replay-nonce"]

    async def post(self, at: str, payload: Any = None, *, by_key: bool = False, **header: Any) -> httpx.Response:
        """Send a signed request; ``header`` goes over what would be sent, None leaves a field out."""
        url = at if at.startswith("http") else f"{self.url}/{at}"
        fields = {"alg": self.alg, "nonce": self.nonce or await self.fresh_nonce(), "url": url}
        fields |= {"jwk": self.key.as_dict(private=False)} if by_key or not self.kid else {"kid": self.kid}
        fields = {name: value for name, value in (fields | header).items() if value is not None}
        body = b"" if payload is None else msgspec.json.encode(payload)
        response = await self.send(url, signed(fields, body, self.key))
        self.nonce = response.headers.get("replay-nonce", "")
        return response

    async def send(self, url: str, body: Any) -> httpx.Response:
        return await self.world.http.post(self.path(url), content=msgspec.json.encode(body), headers=JOSE)

    async def register(self, **body: Any) -> httpx.Response:
        response = await self.post("new-account", {"termsOfServiceAgreed": True, **body}, by_key=True)
        if response.status_code in {200, 201}:
            self.kid = response.headers["location"]
        return response

    def bound(self, kid: str, hmac_key: str, **bend: Any) -> dict[str, str]:
        """Return what binds this key to an external account; ``bend`` replaces its header's fields and its payload."""
        header = {"alg": "HS256", "kid": kid, "url": f"{self.url}/new-account"} | bend.get("header", {})
        payload = bend.get("payload", self.key.as_dict(private=False))
        return signed(header, msgspec.json.encode(payload), OctKey.import_key(acme.decode(hmac_key)))

    async def order(self, *names: str, **body: Any) -> httpx.Response:
        identifiers = [{"type": parse_name(name).kind.value, "value": name} for name in names]
        return await self.post("new-order", {"identifiers": identifiers, **body})

    async def finalize(self, order: Mapping[str, Any], csr: bytes | None = None) -> httpx.Response:
        names = [each["value"] for each in order["identifiers"]]
        return await self.post(order["finalize"], {"csr": acme.encode(csr or csr_for(*names))})

    async def certificate(self, *names: str, **body: Any) -> bytes:
        """Return the PEM chain of a new certificate for these names, in trust mode."""
        made = await self.order(*names, **body)
        assert made.status_code == 201, made.text
        done = await self.finalize(made.json())
        assert done.json()["status"] == "valid", done.text
        response = await self.post(done.json()["certificate"])
        assert response.status_code == 200, response.text
        return response.content


def csr_for(*names: str, algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256, common_name: str = "") -> bytes:
    parsed: tuple[Name, ...] = tuple(parse_name(name) for name in names)
    return build_csr(generate(algorithm), common_name, parsed)


def refused(response: httpx.Response, kind: str, status: int = 0) -> dict[str, Any]:
    """Return the problem document of an answer that has to be this refusal, with a fresh nonce."""
    found: dict[str, Any] = response.json()
    assert found["type"] == URN + kind, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert found["status"] == response.status_code
    assert response.headers["replay-nonce"]
    assert not status or response.status_code == status
    return found
