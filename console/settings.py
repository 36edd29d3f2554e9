"""Where the coordinator is, whom to trust for it, as whom to speak: options, environment, a coordinator on this host.

A key from a local coordinator's data folder is sent only to a server that is known to be this coordinator: it is
reached over loopback, or shows a certificate from the root that lies in the same folder.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from core.environment import Environment
from core.errors import InvalidInput, Misconfigured
from core.secret import Secret

DEFAULT_URL = "https://127.0.0.1:8443"
_SYSTEM_FOLDER = Path("/var/lib/certctl")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Options:
    """What was given on the command line; empty means not given."""

    server: str = ""
    api_key_file: str = ""
    ca_bundle: str = ""


@dataclass(frozen=True)
class Settings:
    """How to reach the coordinator. ``key_hint`` says where a key was looked for when there is none."""

    url: str
    api_key: Secret[str] | None
    ca_bundle: Path | None
    ca_sha256: str
    key_hint: str = ""

    @property
    def is_loopback(self) -> bool:
        """Say whether the server is on this host."""
        return is_loopback(self.url)


def load(options: Options, variables: Mapping[str, str]) -> Settings:
    """Return the settings; raise ``Misconfigured`` or ``InvalidInput`` that names what is wrong and the remedy."""
    env = Environment(variables)
    url = env.read("CERTCTL_SERVER_URL", DEFAULT_URL, _base_url)
    ca_bundle = env.path("CERTCTL_SERVER_CA_BUNDLE_PATH")
    ca_sha256 = env.read("CERTCTL_SERVER_CA_SHA256", "", _fingerprint)
    api_key = env.read("CERTCTL_API_KEY", None, _key)
    folder = env.path("CERTCTL_DATA_DIR") or _data_folder(variables)
    env.finish(known=frozenset(variables))
    if options.server:
        url = _option("--server", options.server)
    if options.ca_bundle:
        ca_bundle = Path(options.ca_bundle).expanduser().absolute()
    if options.api_key_file:
        api_key = _key_from(Path(options.api_key_file).expanduser(), "--api-key-file")
    return _complete(Settings(url, api_key, ca_bundle, ca_sha256), folder)


def _complete(given: Settings, folder: Path) -> Settings:
    """Take from a local coordinator's data folder what was not given, where that is safe."""
    ca, has_ca = folder / "tls" / "ca.crt", given.ca_bundle is not None or bool(given.ca_sha256)
    use_ca = not has_ca and (given.is_loopback or given.api_key is None) and _readable(ca)
    ca_bundle = ca if use_ca else given.ca_bundle
    if given.api_key is not None:
        return Settings(given.url, given.api_key, ca_bundle, given.ca_sha256)
    key_file = folder / "admin.key"
    if (use_ca or given.is_loopback) and _readable(key_file):
        key = _key_from(key_file, "the data folder")
        return Settings(given.url, key, ca_bundle, given.ca_sha256)
    return Settings(given.url, None, ca_bundle, given.ca_sha256, _hint(key_file))


def _hint(key_file: Path) -> str:
    if _exists(key_file):
        return f"{key_file} is there, but you may not read it; run certctl as its owner (sudo certctl …)"
    if os.geteuid() != 0 and key_file.parent != _SYSTEM_FOLDER and _exists(_SYSTEM_FOLDER):
        return f"a coordinator's data is in {_SYSTEM_FOLDER}; its administrator can run: sudo certctl …"
    return ""


def _data_folder(variables: Mapping[str, str]) -> Path:
    """Return where a coordinator that this user runs keeps its data."""
    if os.geteuid() == 0:
        return _SYSTEM_FOLDER
    base = variables.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(base) / "certctl"


def _readable(path: Path) -> bool:
    return os.access(path, os.R_OK)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True


def _key_from(path: Path, source: str) -> Secret[str]:
    try:
        return _key(path.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise Misconfigured(f"{source}: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Misconfigured(f"{source}: {path} {error}") from None


def _key(text: str) -> Secret[str]:
    # What cannot stand in a header would end up in an error message of the HTTP library, key and all.
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        message = "does not hold an API key: one word of printable ASCII is expected"
        raise ValueError(message)
    return Secret(text)


def _fingerprint(text: str) -> str:
    plain = text.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(plain):
        message = "is not a SHA-256: write 64 hexadecimal digits, with or without colons"
        raise ValueError(message)
    return plain


def _option(name: str, text: str) -> str:
    try:
        return _base_url(text)
    except ValueError as error:
        raise InvalidInput.of(name, str(error)) from None


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
        shown = "holds a user name or password" if "@" in text else f"is {text!r}"
        message = f"{shown}; write a base URL like https://certctl.example.com:8443"
        raise ValueError(message)
    return text.rstrip("/")


def is_loopback(url: str) -> bool:
    """Say whether ``url`` leads to this host and nowhere else."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
