"""What the environment says of authorities elsewhere: ``CERTCTL_ACME_*`` make an issuer at the first start."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

from connectors.issuers.acme.config import LETS_ENCRYPT, ACMEConfig, ChallengeType
from core import marking
from core.environment import Environment
from core.errors import InvalidInput
from core.secret import Secret

SCRIPTS_DIR = Path("/etc/certctl/acme-dns")
_SWITCH = ("true", "false")
_DNS_01 = "dns-01"


@dataclass(frozen=True)
class IssuingSettings:
    """``acme`` is the configuration of the issuer that is made, None for none; its secrets are by their paths.

    ``dns_scripts`` are the programs that the environment names; others have to lie in ``dns_scripts_dir``.
    """

    acme: dict[str, Any] | None
    acme_secrets: dict[str, Secret[str]] = field(repr=False)
    dns_scripts: tuple[str, ...]
    dns_scripts_dir: Path


def load(env: Environment) -> IssuingSettings:
    """Read the settings; what is wrong is noted in ``env`` by its variable."""
    url, email = env.text("CERTCTL_ACME_DIRECTORY_URL"), env.text("CERTCTL_ACME_EMAIL")
    kind = env.choice("CERTCTL_ACME_CHALLENGE_TYPE", "http-01", get_args(ChallengeType))
    present, clean_up = env.text("CERTCTL_ACME_DNS_PRESENT_SCRIPT"), env.text("CERTCTL_ACME_DNS_CLEANUP_SCRIPT")
    wait = env.duration("CERTCTL_ACME_DNS_PROPAGATION_WAIT", timedelta())
    hmac, bundle = env.secret("CERTCTL_ACME_EAB_HMAC"), env.path("CERTCTL_ACME_CA_BUNDLE")
    config: dict[str, Any] = {
        "directory_url": url or LETS_ENCRYPT,
        "email": email,
        # Whoever names an authority here has read its terms: there is nobody to ask at a start.
        "terms_agreed": True,
        "eab_kid": env.text("CERTCTL_ACME_EAB_KID"),
        "challenge_type": kind,
        "dns_persist_issuer_domain": env.text("CERTCTL_ACME_DNS_PERSIST_ISSUER_DOMAIN"),
        "profile": env.text("CERTCTL_ACME_PROFILE"),
        "ari_enabled": env.choice("CERTCTL_ACME_ARI_ENABLED", "true", _SWITCH) == "true",
        "connection": {
            "insecure": env.choice("CERTCTL_ACME_INSECURE", "false", _SWITCH) == "true",
            "ca_bundle": _read(env, bundle),
        },
    }
    if zerossl := env.text("CERTCTL_ZEROSSL_EAB_URL"):
        config["zerossl_url"] = zerossl
    if present:
        script = {"present": [present], "clean_up": [clean_up] if clean_up else []}
        config["dns"] = {"script": script, "lookup": {"settle_s": wait.total_seconds()}}
    elif kind.startswith("dns-"):
        env.problem("CERTCTL_ACME_DNS_PRESENT_SCRIPT", f"is required for {kind}")
    secrets = {"eab_hmac": hmac} if hmac else {}
    wanted = bool(url or email)
    if wanted:
        try:
            marking.checked(ACMEConfig, config, secrets)
        except InvalidInput as error:
            wrong = error.errors[0]
            env.problem("CERTCTL_ACME_DIRECTORY_URL", f"makes an issuer whose {wrong.field} {wrong.problem}")
    return IssuingSettings(
        acme=config if wanted else None,
        acme_secrets=secrets,
        dns_scripts=tuple(filter(None, (present, clean_up))),
        dns_scripts_dir=env.path("CERTCTL_ACME_DNS_SCRIPTS_DIR") or SCRIPTS_DIR,
    )


def _read(env: Environment, path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        env.problem("CERTCTL_ACME_CA_BUNDLE", f"{path} cannot be read: {error}")
        return ""
