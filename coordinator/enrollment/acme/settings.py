"""What the environment says of the ACME server: ``CERTCTL_ACME_SERVER_*``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from core.environment import Environment, parse_duration, parse_resolver

MODES = ("trust_authenticated", "challenge")
_SWITCH = ("true", "false")
_MOST_PORT = 65535
_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(days=30)
_MOST = 1_000_000
MOST_PERSPECTIVES = 20
"""Agents that are asked to look at one challenge."""
_MOST_ISSUERS = 10
"""What a challenge of dns-persist-01 may hold (draft-ietf-acme-dns-persist section 3.1)."""


@dataclass(frozen=True)
class ACMESettings:
    """See ``docs/acme-server.md`` for the meaning of each; limits of 0 are none, ``default_profile`` may be empty."""

    enabled: bool
    default_mode: str
    default_profile: str
    allow_open_trust: bool
    eab_required: bool
    nonce_ttl: timedelta
    order_ttl: timedelta
    authz_ttl: timedelta
    concurrency: dict[str, int]
    resolvers: tuple[tuple[str, int], ...]
    allowed_networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    http_port: int
    tls_port: int
    ari: bool
    ari_poll: timedelta
    orders_per_hour: int
    same_names_per_hour: int
    concurrent_orders: int
    key_changes_per_hour: int
    responds_per_hour: int
    failures_per_hour: int
    terms_url: str
    website: str
    caa_identities: tuple[str, ...]
    persist_issuers: tuple[str, ...]
    """The names of this authority in records of dns-persist-01; that challenge is offered with one of them only."""
    perspectives: str
    """The agent group whose agents look at challenges as well; empty: nobody else does."""
    least_perspectives: int


def load(env: Environment) -> ACMESettings:
    """Read the settings; what is wrong is noted in ``env`` by its variable."""
    identities: tuple[str, ...] = env.read("CERTCTL_ACME_SERVER_CAA_IDENTITIES", (), _domains)
    return ACMESettings(
        enabled=env.choice("CERTCTL_ACME_SERVER_ENABLED", "false", _SWITCH) == "true",
        default_mode=env.choice("CERTCTL_ACME_SERVER_DEFAULT_AUTH_MODE", MODES[0], MODES),
        default_profile=env.read(
            "CERTCTL_ACME_SERVER_DEFAULT_PROFILE_ID", "prof-default", lambda text: "" if text == "-" else text
        ),
        allow_open_trust=env.choice("CERTCTL_ACME_SERVER_ALLOW_OPEN_TRUST", "false", _SWITCH) == "true",
        eab_required=env.choice("CERTCTL_ACME_SERVER_EAB_REQUIRED", "false", _SWITCH) == "true",
        nonce_ttl=env.read("CERTCTL_ACME_SERVER_NONCE_TTL", timedelta(minutes=5), _duration),
        order_ttl=env.read("CERTCTL_ACME_SERVER_ORDER_TTL", timedelta(hours=24), _duration),
        authz_ttl=env.read("CERTCTL_ACME_SERVER_AUTHZ_TTL", timedelta(hours=24), _duration),
        concurrency={
            "http-01": env.read("CERTCTL_ACME_SERVER_HTTP01_CONCURRENCY", 10, _at_least_one),
            "dns-01": env.read("CERTCTL_ACME_SERVER_DNS01_CONCURRENCY", 10, _at_least_one),
            "tls-alpn-01": env.read("CERTCTL_ACME_SERVER_TLSALPN01_CONCURRENCY", 10, _at_least_one),
        },
        resolvers=env.read("CERTCTL_ACME_SERVER_DNS01_RESOLVER", (), _resolvers),
        allowed_networks=env.read("CERTCTL_ACME_SERVER_ALLOWED_NETWORKS", (), _networks),
        http_port=env.read("CERTCTL_ACME_SERVER_HTTP01_PORT", 80, _port),
        tls_port=env.read("CERTCTL_ACME_SERVER_TLSALPN01_PORT", 443, _port),
        ari=env.choice("CERTCTL_ACME_SERVER_ARI_ENABLED", "true", _SWITCH) == "true",
        ari_poll=env.read("CERTCTL_ACME_SERVER_ARI_POLL_INTERVAL", timedelta(hours=6), _duration),
        orders_per_hour=env.read("CERTCTL_ACME_SERVER_RATE_LIMIT_ORDERS_PER_HOUR", 100, _count),
        same_names_per_hour=env.read("CERTCTL_ACME_SERVER_RATE_LIMIT_SAME_NAMES_PER_HOUR", 20, _count),
        concurrent_orders=env.read("CERTCTL_ACME_SERVER_RATE_LIMIT_CONCURRENT_ORDERS", 5, _count),
        key_changes_per_hour=env.read("CERTCTL_ACME_SERVER_RATE_LIMIT_KEY_CHANGE_PER_HOUR", 5, _count),
        responds_per_hour=env.read("CERTCTL_ACME_SERVER_RATE_LIMIT_CHALLENGE_RESPONDS_PER_HOUR", 60, _count),
        failures_per_hour=env.read("CERTCTL_ACME_SERVER_RATE_LIMIT_FAILED_VALIDATIONS_PER_HOUR", 20, _count),
        terms_url=env.read("CERTCTL_ACME_SERVER_TOS_URL", "", _url),
        website=env.read("CERTCTL_ACME_SERVER_WEBSITE", "", _url),
        caa_identities=identities,
        persist_issuers=_persist_issuers(env, identities),
        perspectives=env.read("CERTCTL_ACME_SERVER_PERSPECTIVES", "", str),
        least_perspectives=env.read("CERTCTL_ACME_SERVER_PERSPECTIVES_MIN", 2, _perspectives),
    )


def _persist_issuers(env: Environment, identities: tuple[str, ...]) -> tuple[str, ...]:
    if env.choice("CERTCTL_ACME_SERVER_DNS_PERSIST_ENABLED", "false", _SWITCH) == "false":
        return ()
    if not identities and not env.is_wrong("CERTCTL_ACME_SERVER_CAA_IDENTITIES"):
        remedy = "needs a name of this authority in DNS records; set CERTCTL_ACME_SERVER_CAA_IDENTITIES"
        env.problem("CERTCTL_ACME_SERVER_DNS_PERSIST_ENABLED", remedy)
    return identities[:_MOST_ISSUERS]


def _duration(text: str) -> timedelta:
    found = parse_duration(text)
    if not _SHORTEST <= found <= _LONGEST:
        message = f"is {text!r}; use a duration from 1m to 30d"
        raise ValueError(message)
    return found


def _number(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        message = f"is {text!r}; use a whole number from {least} to {most}"
        raise ValueError(message)
    return int(text)


def _count(text: str) -> int:
    return _number(text, 0, _MOST)


def _at_least_one(text: str) -> int:
    return _number(text, 1, _MOST)


def _perspectives(text: str) -> int:
    return _number(text, 1, MOST_PERSPECTIVES)


def _port(text: str) -> int:
    return _number(text, 1, _MOST_PORT)


def _resolvers(text: str) -> tuple[tuple[str, int], ...]:
    """Read ``address[:port], …``; an IPv6 address with a port stands in brackets."""
    return tuple(parse_resolver(part.strip()) for part in text.split(","))


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))
    except ValueError as error:
        message = f"is {text!r}; write networks like 127.0.0.0/8, with commas between them"
        raise ValueError(message) from error


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        message = f"is {text!r}; write a URL like https://pki.example.com/terms"
        raise ValueError(message)
    return text


def _domains(text: str) -> tuple[str, ...]:
    found = tuple(part.strip().lower().rstrip(".") for part in text.split(",") if part.strip())
    if any(" " in domain or "." not in domain for domain in found):
        message = f"is {text!r}; write domain names like ca.example.com, with commas between them"
        raise ValueError(message)
    return found
