"""The configuration of issuers of type ``acme``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from connectors.issuers.acme.dns.acme_dns import AcmeDNSConfig
from connectors.issuers.acme.dns.azure_dns import AzureDNSConfig
from connectors.issuers.acme.dns.cloudflare import CloudflareConfig
from connectors.issuers.acme.dns.google_cloud_dns import GoogleCloudDNSConfig
from connectors.issuers.acme.dns.lookup import DNSConfig
from connectors.issuers.acme.dns.rfc2136 import RFC2136Config
from connectors.issuers.acme.dns.route53 import Route53Config
from connectors.issuers.acme.dns.script import ScriptConfig
from connectors.issuers.acme.transport import Connection
from connectors.issuers.acme.zerossl import CREDENTIALS_URL
from core import acme
from core.secret import Secret

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
ChallengeType = Literal["http-01", "tls-alpn-01", "dns-01", "dns-account-01", "dns-persist-01"]
PROVIDERS = ("script", "rfc2136", "cloudflare", "route53", "google_cloud_dns", "azure_dns", "acme_dns")
_HTTPS = r"^https://[^/\s?#]+(/[^\s#]*)?$"


class DNS(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What writes the records of DNS challenges, one of the providers, and how the DNS is asked about them."""

    script: Annotated[ScriptConfig | None, msgspec.Meta(description="Programs of your own.")] = None
    rfc2136: Annotated[RFC2136Config | None, msgspec.Meta(description="Dynamic update of a DNS server.")] = None
    cloudflare: Annotated[CloudflareConfig | None, msgspec.Meta(description="Cloudflare.")] = None
    route53: Annotated[Route53Config | None, msgspec.Meta(description="Amazon Route 53.")] = None
    google_cloud_dns: Annotated[GoogleCloudDNSConfig | None, msgspec.Meta(description="Google Cloud DNS.")] = None
    azure_dns: Annotated[AzureDNSConfig | None, msgspec.Meta(description="Azure DNS.")] = None
    acme_dns: Annotated[AcmeDNSConfig | None, msgspec.Meta(description="An acme-dns server.")] = None
    lookup: Annotated[DNSConfig, msgspec.Meta(description="How records are looked up.")] = DNSConfig()

    def __post_init__(self) -> None:
        """Hold the fields against each other."""
        given = [name for name in PROVIDERS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"takes exactly one of {', '.join(PROVIDERS)}; {len(given)} are given")

    @property
    def provider(self) -> tuple[str, msgspec.Struct]:
        """Return the type of the provider and its configuration."""
        return next((name, getattr(self, name)) for name in PROVIDERS if getattr(self, name) is not None)


class ACMEConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An authority that speaks ACME (RFC 8555), such as Let's Encrypt; it is asked for every certificate."""

    directory_url: Annotated[
        str, msgspec.Meta(description="Address of its directory.", pattern=_HTTPS, max_length=2000)
    ] = LETS_ENCRYPT
    email: Annotated[str, msgspec.Meta(description="Whom it may write to about the account.", max_length=254)] = ""
    terms_agreed: Annotated[
        bool, msgspec.Meta(description="Whether you agree to its terms of service, which its directory names.")
    ] = False
    eab_kid: Annotated[str, msgspec.Meta(description="Key id that it gave you for a new account.", max_length=1000)] = (
        ""
    )
    eab_hmac: Annotated[
        Secret[str] | None,
        msgspec.Meta(description="MAC key that came with it, in base64url.", extra_json_schema={"secret": True}),
    ] = None
    zerossl_url: Annotated[
        str, msgspec.Meta(description="Where ZeroSSL gives credentials by e-mail address.", pattern=_HTTPS)
    ] = CREDENTIALS_URL
    challenge_type: Annotated[
        ChallengeType,
        msgspec.Meta(
            description="How names are proved. http-01 and tls-alpn-01 are answered by the agents that hold the "
            "certificate, the others in the DNS; wildcards are always proved in the DNS."
        ),
    ] = "http-01"
    dns: Annotated[DNS | None, msgspec.Meta(description="What writes records; needed for DNS challenges.")] = None
    dns_persist_issuer_domain: Annotated[
        str,
        msgspec.Meta(
            description="Domain that records of dns-persist-01 name the authority by; default: its own choice.",
            max_length=253,
        ),
    ] = ""
    profile: Annotated[
        str, msgspec.Meta(description="The authority's own profile, for instance shortlived.", max_length=100)
    ] = ""
    preferred_root: Annotated[
        str, msgspec.Meta(description="Common name of the root that chains should lead to.", max_length=200)
    ] = ""
    ari_enabled: Annotated[
        bool, msgspec.Meta(description="Whether it is asked when to renew (RFC 9773); its window then decides.")
    ] = True
    fallback_issuer_ids: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="ACME issuers to ask, in this order, when this one cannot for now.", max_length=5),
    ] = ()
    connection: Annotated[Connection, msgspec.Meta(description="How it is reached.")] = Connection()

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        if bool(self.eab_kid) != (self.eab_hmac is not None):
            missing, given = ("eab_hmac", "eab_kid") if self.eab_kid else ("eab_kid", "eab_hmac")
            raise ValueError(f"{missing}: is required with {given}; add it")
        if self.challenge_type.startswith("dns-") and self.dns is None:
            raise ValueError(f"dns: is required for {self.challenge_type}; say what writes the records")

    @property
    def preference(self) -> tuple[str, ...]:
        """Return the types of challenges that can be answered, the preferred one first."""
        others = (acme.DNS_01,) if self.dns is not None else ()
        return tuple(dict.fromkeys((self.challenge_type, *others)))
