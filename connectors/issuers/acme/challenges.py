"""What has to be shown for a name (RFC 8555 section 8, RFC 8737, RFC 8738), with all that an answerer needs.

draft-ietf-acme-dns-account-label and draft-ietf-acme-dns-persist are known as well.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from connectors.issuers.acme.problems import Problem, printable
from core import acme
from core.acme import ALPNCertificate
from core.errors import Refused
from core.names import Name, NameKind, parse_name

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,256}", re.ASCII)
"""A token becomes part of a path and of a variable, so nothing else is taken (RFC 8555 section 8.1)."""
_KINDS = {"dns": NameKind.DNS, "ip": NameKind.IP}


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """One way to prove that a name is ours. ``name`` is without the ``*.`` of a wildcard."""

    type: str
    name: Name
    wildcard: bool
    url: str
    authorization_url: str
    status: str
    token: str
    key_authorization: str
    account_url: str
    issuer_domain: str = ""
    problem: Problem | None = None

    @property
    def http_path(self) -> str:
        """Return the path that is asked for on port 80 (section 8.3); its body is ``key_authorization``."""
        return f"/.well-known/acme-challenge/{self.token}"

    @property
    def http_body(self) -> bytes:
        """Return what is served there."""
        return self.key_authorization.encode()

    @property
    def is_dns(self) -> bool:
        """Say whether it is answered by a TXT record."""
        return self.type in {acme.DNS_01, acme.DNS_ACCOUNT_01, acme.DNS_PERSIST_01}

    @property
    def dns_name(self) -> str:
        """Return the name of that record, without a dot at the end."""
        label = self.account_url if self.type == acme.DNS_ACCOUNT_01 else ""
        return acme.dns_name(self.name.value, label, persist=self.type == acme.DNS_PERSIST_01)

    @property
    def dns_value(self) -> str:
        """Return what the record says."""
        if self.type == acme.DNS_PERSIST_01:
            policy = "; policy=wildcard" if self.wildcard else ""
            return f"{self.issuer_domain}; accounturi={self.account_url}{policy}"
        return acme.txt_value(self.key_authorization)

    @property
    def alpn_server_name(self) -> str:
        """Return the name that a TLS client asks for in tls-alpn-01."""
        return acme.alpn_server_name(self.name)

    def alpn_certificate(self) -> ALPNCertificate:
        """Make the certificate to show when ``acme-tls/1`` is negotiated for ``alpn_server_name`` (RFC 8737)."""
        return acme.alpn_certificate(self.name, self.key_authorization)


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """What the authority wants to know of one name: ``pending``, ``valid``, or one of the ways to be over."""

    url: str
    name: Name
    wildcard: bool
    status: str
    challenges: tuple[Challenge, ...]


class _Challenge(msgspec.Struct, rename={"issuer_domains": "issuer-domain-names"}):
    type: str
    url: str
    status: str = "pending"
    token: str = ""
    error: Problem | None = None
    issuer_domains: tuple[str, ...] = ()


class AuthorizationDocument(msgspec.Struct):
    """An authorization as it comes (RFC 8555 section 7.1.4)."""

    identifier: dict[str, Any]
    status: str
    challenges: tuple[_Challenge, ...] = ()
    wildcard: bool = False

    def read(self, url: str, *, account_url: str, thumbprint: str) -> Authorization:
        """Return it with what an account's key makes of its challenges; those that cannot be answered are left out."""
        name = _name(self.identifier)
        challenges = tuple(
            Challenge(
                type=each.type,
                name=name,
                wildcard=self.wildcard,
                url=each.url,
                authorization_url=url,
                status=each.status,
                token=each.token,
                key_authorization=acme.key_authorization(each.token, thumbprint) if each.token else "",
                account_url=account_url,
                issuer_domain=each.issuer_domains[0] if each.issuer_domains else "",
                problem=each.error,
            )
            for each in self.challenges
            if _is_answerable(each)
        )
        return Authorization(url=url, name=name, wildcard=self.wildcard, status=self.status, challenges=challenges)


def choose(authorization: Authorization, preference: Sequence[str]) -> Challenge:
    """Return the challenge of the first preferred type that is offered; raise ``Refused`` when none is."""
    for wanted in preference:
        for challenge in authorization.challenges:
            if challenge.type == wanted:
                return challenge
    offered = ", ".join(printable(challenge.type) for challenge in authorization.challenges) or "nothing"
    name = f"*.{authorization.name}" if authorization.wildcard else str(authorization.name)
    raise Refused(f"{name}: the authority offers {offered}, and set up here is {', '.join(preference) or 'nothing'}")


def identifier(name: Name) -> dict[str, str]:
    """Return a name as ACME writes it (RFC 8555 section 7.1.3, RFC 8738); raise ``Refused`` for another kind."""
    kind = {NameKind.DNS: "dns", NameKind.IP: "ip"}.get(name.kind)
    if kind is None:
        raise Refused(f"{name} is no host name or address, and ACME certifies only those; leave it out")
    return {"type": kind, "value": name.value}


def _name(given: dict[str, Any]) -> Name:
    name = parse_name(str(given.get("value", "")), field="identifier")
    if name.kind is not _KINDS.get(str(given.get("type"))) or str(name).startswith("*."):
        raise Refused(f"the authority asks for {printable(str(given))}, which was not ordered")
    if name.kind is NameKind.IP:
        return Name(NameKind.IP, str(ipaddress.ip_address(name.value)))
    return name


def _is_answerable(challenge: _Challenge) -> bool:
    if challenge.type == acme.DNS_PERSIST_01:
        return bool(challenge.issuer_domains)
    return bool(_TOKEN.fullmatch(challenge.token))
