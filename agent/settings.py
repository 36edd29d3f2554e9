"""The agent's settings: ``CERTCTL_*`` variables, read once, typed, with every error told at once."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from core.environment import Environment
from core.errors import Misconfigured
from core.secret import Secret

DEFAULT_LISTEN = "127.0.0.1:9465"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_OTHERS = frozenset({"CERTCTL_API_KEY", "CERTCTL_DATA_DIR", "CERTCTL_CRASH_POINT"})


@dataclass(frozen=True)
class Settings:
    """What the environment said; see ``docs/settings.md`` for the meaning of each."""

    server_url: str
    ca_bundle: Path | None
    ca_sha256: str
    name: str
    bootstrap_token: Secret[str] | None
    state_dir: Path
    key_dir: Path
    listen: tuple[str, int] | None
    max_parallel: int
    drift_interval: timedelta
    config_path: Path | None
    log_level: str
    log_format: str
    warnings: tuple[str, ...] = ()


def load(variables: Mapping[str, str]) -> Settings:
    """Read the settings; raise ``Misconfigured`` that names each wrong variable and its remedy."""
    env = Environment(variables)
    state_dir = env.path("CERTCTL_STATE_DIR") or Path("/var/lib/certctl-agent")
    listen_off = variables.get("CERTCTL_AGENT_LISTEN") == ""
    listen = env.read("CERTCTL_AGENT_LISTEN", parse_listen(DEFAULT_LISTEN), parse_listen)
    settings = Settings(
        server_url=env.read("CERTCTL_SERVER_URL", "", _server_url),
        ca_bundle=env.path("CERTCTL_SERVER_CA_BUNDLE_PATH"),
        ca_sha256=env.read("CERTCTL_SERVER_CA_SHA256", "", _fingerprint),
        name=env.text("CERTCTL_AGENT_NAME", socket.gethostname()),
        bootstrap_token=env.secret("CERTCTL_AGENT_BOOTSTRAP_TOKEN"),
        state_dir=state_dir,
        key_dir=env.path("CERTCTL_KEY_DIR") or state_dir / "keys",
        listen=None if listen_off else listen,
        max_parallel=env.integer("CERTCTL_MAX_PARALLEL_DEPLOYMENTS", 4, 1, 64),
        drift_interval=env.duration("CERTCTL_DRIFT_INTERVAL", timedelta(hours=1)),
        config_path=env.path("CERTCTL_AGENT_CONFIG"),
        log_level=env.choice("CERTCTL_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        log_format=env.choice("CERTCTL_LOG_FORMAT", "", ("text", "json")),
    )
    if not variables.get("CERTCTL_SERVER_URL"):
        env.problem("CERTCTL_SERVER_URL", "is required: the coordinator's URL, like https://certctl.example.com:8443")
    if settings.ca_bundle and settings.ca_sha256:
        env.problem("CERTCTL_SERVER_CA_SHA256", "and CERTCTL_SERVER_CA_BUNDLE_PATH are both set; pin by one of them")
    return replace(settings, warnings=env.finish(known=_OTHERS))


def listen_address(variables: Mapping[str, str]) -> tuple[str, int]:
    """Return where the local page of an agent with these variables is; raise ``Misconfigured``."""
    env = Environment(variables)
    listen = env.read("CERTCTL_AGENT_LISTEN", parse_listen(DEFAULT_LISTEN), parse_listen)
    env.finish()
    if listen is None or variables.get("CERTCTL_AGENT_LISTEN") == "":
        raise Misconfigured("CERTCTL_AGENT_LISTEN is empty, so there is no local page to ask")
    return listen


def _server_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        bare = parts.username is None and not parts.query and not parts.fragment
        usable = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and bare
    except ValueError:
        usable = False
    if not usable:
        message = f"is {text!r}; write an https URL like https://certctl.example.com:8443"
        raise ValueError(message)
    return text.rstrip("/")


def _fingerprint(text: str) -> str:
    plain = text.lower().replace(":", "")
    if not _FINGERPRINT.fullmatch(plain):
        message = "is not a SHA-256 in hex (64 digits); see 'openssl x509 -in ca.crt -noout -fingerprint -sha256'"
        raise ValueError(message)
    return plain


def parse_listen(text: str) -> tuple[str, int] | None:
    """Read ``host:port`` or ``[v6]:port``."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) <= 65535:  # noqa: PLR2004 - the ports there are
        message = f"is {text!r}; write host:port, for instance {DEFAULT_LISTEN}, or leave it empty to turn the page off"
        raise ValueError(message)
    return host.strip("[]"), int(port)
