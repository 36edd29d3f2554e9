"""The coordinator's settings: ``CERTCTL_*`` variables, read once, typed, with every error told at once."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from connectors.notifiers.smtp import MailServer
from coordinator.enrollment.acme import settings as acme
from coordinator.enrollment.acme.settings import ACMESettings
from coordinator.issuers import settings as issuing
from coordinator.issuers.settings import IssuingSettings
from coordinator.loops import settings as loops
from coordinator.loops.settings import LoopSettings
from coordinator.oidc import settings as oidc
from coordinator.oidc.settings import OIDCSettings
from core.environment import Environment, parse_duration
from core.secret import Secret

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
ROLES = ("viewer", "operator", "approver", "auditor", "admin")
MIN_KEY_BYTES = 32
_MIN_API_KEY_LENGTH = 16
_SHORTEST_RETENTION = timedelta(days=31)
_SHORTEST_SESSION, _LONGEST_SESSION = timedelta(minutes=5), timedelta(days=30)
_MOST_RPS = 1_000_000
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_ADDRESS = re.compile(r"[^\s@<>,;\x00-\x1f]+@[^\s@<>,;\x00-\x1f]+")
_SHORTEST_PATIENCE, _LONGEST_PATIENCE = timedelta(minutes=1), timedelta(days=365)
_SHORTEST_LEASE, _LONGEST_LEASE = timedelta(minutes=1), timedelta(hours=1)

# Read by the agent and the console; no reason to warn when they share an environment with the coordinator.
_OTHERS = frozenset(
    {
        "CERTCTL_API_KEY",
        "CERTCTL_SERVER_CA_BUNDLE_PATH",
        "CERTCTL_SERVER_CA_SHA256",
        "CERTCTL_AGENT_NAME",
        "CERTCTL_STATE_DIR",
        "CERTCTL_KEY_DIR",
        "CERTCTL_AGENT_LISTEN",
        "CERTCTL_AGENT_CONFIG",
        "CERTCTL_MAX_PARALLEL_DEPLOYMENTS",
        "CERTCTL_CRASH_POINT",
    }
)


class NamedKey(NamedTuple):
    """One entry of CERTCTL_API_KEYS_NAMED."""

    name: str
    key: Secret[str]
    role: str


class RateLimits(NamedTuple):
    """Requests a second and at once: of an address without a credential, and of each caller with one."""

    rps: int
    burst: int
    caller_rps: int
    caller_burst: int


@dataclass(frozen=True)
class Settings:
    """What the environment said; see ``docs/settings.md`` for the meaning of each."""

    host: str
    port: int
    url: str
    data_dir: Path
    database_url: Secret[str] | None
    database_owner_url: Secret[str] | None
    tls_cert_path: Path | None
    tls_key_path: Path | None
    tls_floor: str
    pki_host: str
    pki_port: int
    pki_url: str
    api_keys: tuple[NamedKey, ...]
    bootstrap_token: Secret[str] | None
    encryption_key: Secret[bytes] | None
    previous_encryption_key: Secret[bytes] | None
    ca_cert_path: Path | None
    ca_key_path: Path | None
    metrics_listen: tuple[str, int] | None
    audit_retention: timedelta | None
    audit_webhook_url: str
    audit_webhook_secret: Secret[str] | None
    webhook_url: str
    webhook_secret: Secret[str] | None
    mail_server: MailServer | None
    notification_recipients: tuple[str, ...]
    max_body_bytes: int
    rate_limits: RateLimits | None
    exports_per_hour: int
    trusted_proxies: tuple[Network, ...]
    cors_origins: tuple[str, ...]
    lease: timedelta
    approval_timeout: timedelta
    loops: LoopSettings
    keygen_mode: str
    session_idle: timedelta
    session_lifetime: timedelta
    oidc: OIDCSettings | None
    acme: ACMESettings
    issuing: IssuingSettings
    log_level: str
    log_format: str
    warnings: tuple[str, ...] = ()


def load(variables: Mapping[str, str]) -> Settings:
    """Read the settings; raise ``core.errors.Misconfigured`` that names each wrong variable and its remedy."""
    env = Environment(variables)
    _refuse_what_is_gone(env)
    host, port = env.text("CERTCTL_SERVER_HOST", "127.0.0.1"), env.port("CERTCTL_SERVER_PORT", 8443)
    url = env.read("CERTCTL_SERVER_URL", f"https://{_in_url(host)}:{port}", lambda text: _base_url(text, "https"))
    pki_host, pki_port = env.text("CERTCTL_PKI_HOST", host), env.port("CERTCTL_PKI_PORT", 8880)
    default_pki_url = f"http://{_in_url(pki_host)}:{pki_port}" if pki_port else ""
    settings = Settings(
        host=host,
        port=port,
        url=url,
        data_dir=env.path("CERTCTL_DATA_DIR") or default_data_dir(),
        database_url=env.secret("CERTCTL_DATABASE_URL"),
        database_owner_url=env.secret("CERTCTL_DATABASE_OWNER_URL"),
        tls_cert_path=env.path("CERTCTL_SERVER_TLS_CERT_PATH"),
        tls_key_path=env.path("CERTCTL_SERVER_TLS_KEY_PATH"),
        tls_floor=env.choice("CERTCTL_SERVER_TLS_MIN_VERSION", "1.3", ("1.2", "1.3")),
        pki_host=pki_host,
        pki_port=pki_port,
        pki_url=env.read("CERTCTL_PKI_URL", default_pki_url, lambda text: _base_url(text, "http")),
        api_keys=env.read("CERTCTL_API_KEYS_NAMED", (), _named_keys),
        bootstrap_token=_bootstrap_token(env),
        encryption_key=env.read("CERTCTL_CONFIG_ENCRYPTION_KEY", None, _encryption_key),
        previous_encryption_key=env.read("CERTCTL_CONFIG_ENCRYPTION_KEY_PREVIOUS", None, _encryption_key),
        ca_cert_path=env.path("CERTCTL_CA_CERT_PATH"),
        ca_key_path=env.path("CERTCTL_CA_KEY_PATH"),
        metrics_listen=env.read("CERTCTL_METRICS_LISTEN", parse_listen("127.0.0.1:9464"), parse_listen),
        audit_retention=env.read("CERTCTL_AUDIT_RETENTION", None, _retention),
        audit_webhook_url=env.read("CERTCTL_AUDIT_WEBHOOK_URL", "", _webhook_url),
        audit_webhook_secret=env.secret("CERTCTL_AUDIT_WEBHOOK_SECRET"),
        webhook_url=env.read("CERTCTL_WEBHOOK_URL", "", _webhook_url),
        webhook_secret=env.secret("CERTCTL_WEBHOOK_SECRET"),
        mail_server=_mail_server(env),
        notification_recipients=env.read("CERTCTL_NOTIFICATION_RECIPIENTS", (), _recipients),
        max_body_bytes=env.integer("CERTCTL_MAX_BODY_SIZE", 1024 * 1024, 16 * 1024, 64 * 1024 * 1024),
        rate_limits=_rate_limits(env),
        exports_per_hour=env.integer("CERTCTL_CERT_EXPORT_RATE_LIMIT_PER_ACTOR_HR", 50, 0, _MOST_RPS),
        trusted_proxies=env.read("CERTCTL_TRUSTED_PROXIES", (), _networks),
        cors_origins=env.read("CERTCTL_CORS_ORIGINS", (), _origins),
        lease=env.read("CERTCTL_JOB_LEASE", timedelta(minutes=3), _lease),
        approval_timeout=env.read("CERTCTL_JOB_AWAITING_APPROVAL_TIMEOUT", timedelta(hours=168), _patience),
        loops=loops.load(env),
        keygen_mode=env.choice("CERTCTL_KEYGEN_MODE", "agent", ("agent", "server")),
        session_idle=env.read("CERTCTL_SESSION_IDLE", timedelta(minutes=30), _session),
        oidc=oidc.load(env, url, ROLES),
        acme=acme.load(env),
        issuing=issuing.load(env),
        session_lifetime=env.read("CERTCTL_SESSION_LIFETIME", timedelta(hours=12), _session),
        log_level=env.choice("CERTCTL_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        log_format=env.choice("CERTCTL_LOG_FORMAT", "", ("text", "json")),
    )
    _check_pairs(env, settings)
    warnings = env.finish(known=_OTHERS)
    return Settings(**{**settings.__dict__, "warnings": warnings})


def _check_pairs(env: Environment, settings: Settings) -> None:
    pairs = (
        ("CERTCTL_SERVER_TLS_CERT_PATH", settings.tls_cert_path, "CERTCTL_SERVER_TLS_KEY_PATH", settings.tls_key_path),
        ("CERTCTL_CA_CERT_PATH", settings.ca_cert_path, "CERTCTL_CA_KEY_PATH", settings.ca_key_path),
    )
    for first, first_path, second, second_path in pairs:
        if (first_path is None) != (second_path is None):
            env.problem(first if first_path is None else second, "is missing: give both of the pair, or none")
    if settings.database_owner_url and not settings.database_url:
        env.problem("CERTCTL_DATABASE_URL", "is missing: with CERTCTL_DATABASE_OWNER_URL, give the application's too")
    if settings.audit_webhook_secret and not settings.audit_webhook_url:
        env.problem("CERTCTL_AUDIT_WEBHOOK_URL", "is missing: there is a secret for it")
    if settings.webhook_secret and not settings.webhook_url:
        env.problem("CERTCTL_WEBHOOK_URL", "is missing: there is a secret for it")
    if settings.pki_port and settings.pki_port == settings.port and settings.pki_host == settings.host:
        env.problem("CERTCTL_PKI_PORT", f"is {settings.pki_port}, where HTTPS listens already; choose another one")


def _refuse_what_is_gone(env: Environment) -> None:
    keys = "every caller has a key: remove it and use CERTCTL_API_KEYS_NAMED=name:key:role"
    env.refuse("CERTCTL_AUTH_TYPE", f"no longer exists, {keys}")
    env.refuse("CERTCTL_AUTH_SECRET", f"no longer exists, {keys}")
    env.refuse("CERTCTL_APPROVAL_BYPASS", "no longer exists, approvals cannot be bypassed: remove it")


def default_data_dir() -> Path:
    """Return /var/lib/certctl for root, else the user's own data folder (XDG base directories)."""
    if os.geteuid() == 0:
        return Path("/var/lib/certctl")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(base) / "certctl"


def parse_listen(text: str) -> tuple[str, int] | None:
    """Read ``host:port`` or ``[v6]:port``; ``off`` gives None."""
    if text.lower() in {"off", "none"}:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:  # noqa: PLR2004 - the ports there are
        message = f"is {text!r}; write host:port, for instance 127.0.0.1:9464, or 'off'"
        raise ValueError(message)
    return host.strip("[]"), int(port)


def _bootstrap_token(env: Environment) -> Secret[str] | None:
    mode = env.choice("CERTCTL_ENROLLMENT", "any", ("any", "one-time"))
    token = env.secret("CERTCTL_AGENT_BOOTSTRAP_TOKEN")
    if token and mode == "one-time":
        env.problem(
            "CERTCTL_AGENT_BOOTSTRAP_TOKEN",
            "is a static token, which CERTCTL_ENROLLMENT=one-time forbids: unset one of both",
        )
    return token


def _mail_server(env: Environment) -> MailServer | None:
    """Read where mail is handed in; None when it is not set up."""
    host, sender = env.text("CERTCTL_SMTP_HOST"), env.read("CERTCTL_SMTP_FROM_ADDRESS", "", _address)
    port, username = env.port("CERTCTL_SMTP_PORT", 587), env.text("CERTCTL_SMTP_USERNAME")
    password = env.secret("CERTCTL_SMTP_PASSWORD")
    use_tls = env.choice("CERTCTL_SMTP_USE_TLS", "true", ("true", "false")) == "true"
    if bool(host) != bool(sender) and not env.is_wrong("CERTCTL_SMTP_FROM_ADDRESS"):
        env.problem("CERTCTL_SMTP_FROM_ADDRESS" if host else "CERTCTL_SMTP_HOST", "is missing: mail needs both")
    if bool(username) != (password is not None):
        env.problem("CERTCTL_SMTP_PASSWORD" if username else "CERTCTL_SMTP_USERNAME", "is missing: give both or none")
    if password is not None and not use_tls:
        env.problem("CERTCTL_SMTP_USE_TLS", "is false, and the password would go in clear: leave it true")
    return MailServer(host, port, username, password, sender, use_tls) if host and sender else None


def _recipients(text: str) -> tuple[str, ...]:
    return tuple(_address(part.strip()) for part in text.split(",") if part.strip())


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        message = f"holds {text[:80]!r}, which is no e-mail address; write ones like ops@example.com"
        raise ValueError(message)
    return text


def _rate_limits(env: Environment) -> RateLimits | None:
    """Read the budgets; those of callers are the same as those of addresses where they are 0."""
    enabled = env.choice("CERTCTL_RATE_LIMIT_ENABLED", "true", ("true", "false")) == "true"
    rps = env.integer("CERTCTL_RATE_LIMIT_RPS", 50, 1, _MOST_RPS)
    burst = env.integer("CERTCTL_RATE_LIMIT_BURST", 100, 1, _MOST_RPS)
    caller_rps = env.integer("CERTCTL_RATE_LIMIT_PER_USER_RPS", 0, 0, _MOST_RPS)
    caller_burst = env.integer("CERTCTL_RATE_LIMIT_PER_USER_BURST", 0, 0, _MOST_RPS)
    return RateLimits(rps, burst, caller_rps or rps, caller_burst or burst) if enabled else None


def _networks(text: str) -> tuple[Network, ...]:
    found: list[Network] = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(entry))
        except ValueError as error:
            message = f"holds {entry!r}, which is no network; write addresses or CIDR like 10.0.0.0/8,fd00::/8"
            raise ValueError(message) from error
    return tuple(found)


def _origins(text: str) -> tuple[str, ...]:
    found = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if "*" in found and len(found) > 1:
        message = "holds '*' beside others; write exact origins, or '*' alone for every page of the web"
        raise ValueError(message)
    for origin in found:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            message = f"holds {origin!r}, which is no origin; write scheme, host and port only: https://ui.example.com"
            raise ValueError(message)
    return found


def _lease(text: str) -> timedelta:
    lease = parse_duration(text)
    if not _SHORTEST_LEASE <= lease <= _LONGEST_LEASE:
        message = f"is {text!r}; use a duration from 1m, which outlasts a long poll, to 1h"
        raise ValueError(message)
    return lease


def _patience(text: str) -> timedelta:
    patience = parse_duration(text)
    if not _SHORTEST_PATIENCE <= patience <= _LONGEST_PATIENCE:
        message = f"is {text!r}; use a duration from 1m to 365d"
        raise ValueError(message)
    return patience


def _retention(text: str) -> timedelta:
    retention = parse_duration(text)
    if retention < _SHORTEST_RETENTION:
        message = f"is {text!r}; events are kept by months, so use 31d or more, for instance 730d"
        raise ValueError(message)
    return retention


def _webhook_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.fragment:
        message = "is no https URL; write one like https://hooks.example.com/certctl"
        raise ValueError(message)
    return text


def _session(text: str) -> timedelta:
    limit = parse_duration(text)
    if not _SHORTEST_SESSION <= limit <= _LONGEST_SESSION:
        message = f"is {text!r}; use a duration from 5m to 30d"
        raise ValueError(message)
    return limit


def _in_url(host: str) -> str:
    """Return how others write ``host`` in a URL; for "every address" that is this machine's name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return socket.getfqdn()
    return f"[{host}]" if address.version == 6 else host  # noqa: PLR2004 - IPv6


def _base_url(text: str, scheme: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != scheme or not parts.hostname or parts.query or parts.fragment:
        message = f"is {text!r}; write a base URL like {scheme}://certctl.example.com"
        raise ValueError(message)
    return text.rstrip("/")


def _encryption_key(text: str) -> Secret[bytes]:
    if len(text.encode()) < MIN_KEY_BYTES:
        message = (
            f"is too short: use at least {MIN_KEY_BYTES} random bytes, for instance from 'openssl rand -base64 48'"
        )
        raise ValueError(message)
    return Secret(text.encode())


def _named_keys(text: str) -> tuple[NamedKey, ...]:
    found = tuple(_named_key(entry.strip()) for entry in text.split(",") if entry.strip())
    if len({named.key for named in found}) < len(found):
        message = "gives the same key to two names; make one for each"
        raise ValueError(message)
    return found


def _named_key(entry: str) -> NamedKey:
    name, _, rest = entry.partition(":")
    key, _, role = rest.partition(":")
    if not name or not key:
        message = "holds an entry that is not of the form name:key or name:key:role"
        raise ValueError(message)
    if (role or "viewer") not in ROLES:
        # What stands in the role's place may be the rest of a key with a colon in it, so it is not repeated.
        message = f"gives {name!r} a role that does not exist; use one of {', '.join(ROLES)}"
        raise ValueError(message)
    if len(key) < _MIN_API_KEY_LENGTH:
        message = f"gives {name!r} a key of {len(key)} characters; use at least {_MIN_API_KEY_LENGTH} random ones"
        raise ValueError(message)
    return NamedKey(name, Secret(key), role or "viewer")
