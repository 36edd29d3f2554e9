"""The one table of what the API has: what people see of each kind, what it is filtered by and what can be done with it.

``console.commands.generic`` makes commands of it, ``console.commands.apply`` reads and writes it as YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from console import listed, model
from console.lookup import AGENT, CERTIFICATE, ISSUER, PROFILE, TARGET, Kind

Verb = Literal["list", "get", "create", "update", "delete"]
EVERY: tuple[Verb, ...] = ("list", "get", "create", "update", "delete")


@dataclass(frozen=True)
class Sub:
    """A list that belongs to one thing, or to none: what stands below its path."""

    name: str
    about: str
    type: type[Any]
    columns: Mapping[str, str]
    filters: tuple[str, ...] = ()
    paged: bool = True


@dataclass(frozen=True)
class Action:
    """Something that is done to one thing, or that it is asked (``reads``), at ``path`` below its own.

    ``takes`` says that there is a body.
    """

    name: str
    about: str
    path: str
    takes: bool = False
    reads: bool = False


@dataclass(frozen=True)
class Resource:
    """One kind. ``columns`` are headings and the fields below them, ``switches`` what its removal can be told.

    ``order`` is its place when many kinds are applied; 0 when it is none that can be declared. ``types`` is the path of
    the types that it comes in. What is ``by_id`` only cannot be asked for by itself;
    of what is ``named`` the id may be chosen.
    """

    kind: Kind[Any]
    about: str
    columns: Mapping[str, str] = field(default_factory=dict)
    filters: tuple[str, ...] = ()
    verbs: tuple[Verb, ...] = EVERY
    switches: tuple[str, ...] = ()
    subs: tuple[Sub, ...] = ()
    actions: tuple[Action, ...] = ()
    order: int = 0
    types: str = ""
    by_id: bool = False
    named: bool = True
    removal: str = "Remove one that nothing uses."

    @property
    def collection(self) -> str:
        """Return the name in paths and commands."""
        return self.kind.collection


_NAMED = {"ID": "id", "NAME": "name"}
GROUP = Kind("agent group", "agent-groups", "grp", listed.AgentGroup)
TYPES = Sub(
    "types",
    "List the kinds there are.",
    listed.KindOfThing,
    {"TYPE": "type", "DESCRIPTION": "description"},
    paged=False,
)
_VIOLATION = {
    "CERTIFICATE": "common_name",
    "RULE": "rule_name",
    "SEVERITY": "severity",
    "SINCE": "created_at",
    "CLOSED": "closed_at",
    "MESSAGE": "message",
}

RESOURCES: tuple[Resource, ...] = (
    Resource(
        Kind("team", "teams", "team", listed.Team),
        "Who certificates and their owners belong to.",
        {**_NAMED, "DESCRIPTION": "description"},
        ("name",),
        order=1,
    ),
    Resource(
        Kind("owner", "owners", "o", listed.Owner),
        "The people who answer for certificates.",
        {**_NAMED, "E-MAIL": "email", "TEAM": "team_id"},
        ("name", "email", "team_id"),
        order=2,
    ),
    Resource(
        GROUP,
        "Agents by what they say of their hosts, and by name.",
        {
            **_NAMED,
            "SYSTEM": "match_os",
            "ARCHITECTURE": "match_architecture",
            "NETWORK": "match_ip_cidr",
            "VERSION": "match_version",
            "DESCRIPTION": "description",
        },
        ("name",),
        subs=(
            Sub(
                "members",
                "List the agents that are in a group now.",
                listed.GroupMember,
                {**_NAMED, "HOST": "hostname", "SYSTEM": "os", "VERSION": "version", "WHY": "membership"},
                ("membership",),
            ),
        ),
        order=3,
    ),
    Resource(
        ISSUER,
        "Who signs.",
        types="issuer-types",
        verbs=("create", "update", "delete"),
        subs=(
            Sub(
                "keys",
                "List all keys of an issuer, the current one first.",
                listed.IssuerKey,
                {
                    "KEY": "ski",
                    "SUBJECT": "subject",
                    "ALGORITHM": "key_algorithm",
                    "UNTIL": "not_after",
                    "CURRENT": "is_current",
                },
                paged=False,
            ),
            Sub(
                "accounts",
                "List our accounts at an issuer's authority, the current one first.",
                listed.IssuerAccount,
                {
                    "ID": "id",
                    "DIRECTORY": "directory_url",
                    "STATE": "state",
                    "ACCOUNT": "url",
                    "BLOCKED": "blocked_until",
                },
                paged=False,
            ),
        ),
        actions=(
            Action("test", "Look at key, chain and dates, and let it sign a certificate that is thrown away.", "test"),
            Action("rotate", "Give it a new key; certificates of the one before stay valid.", "keys", takes=True),
            Action("roll-over", "Give our account at its authority a new key.", "accounts/roll-over"),
        ),
        order=4,
    ),
    Resource(PROFILE, "What may be issued.", verbs=("create", "update", "delete"), order=5),
    Resource(
        Kind("renewal policy", "renewal-policies", "rp", listed.RenewalPolicy),
        "When certificates are renewed, and who is told.",
        {
            **_NAMED,
            "RENEWS": "auto_renew",
            "DAYS BEFORE": "days_before",
            "RETRIES": "max_retries",
            "AGENTS": "agent_group_id",
        },
        ("name", "auto_renew", "agent_group_id"),
        order=6,
    ),
    Resource(
        Kind("policy", "policies", "pol", listed.Policy),
        "Rules that every certificate is held against.",
        {**_NAMED, "TYPE": "type", "SEVERITY": "severity", "ENFORCE": "enforce", "ON": "enabled"},
        ("name", "type", "severity", "enforce", "enabled"),
        types="policy-types",
        subs=(
            Sub(
                "violations",
                "List the violations of one rule.",
                listed.Violation,
                _VIOLATION,
                ("certificate_id", "severity", "open"),
            ),
        ),
        order=7,
    ),
    Resource(
        Kind("violation", "violations", "vio", listed.Violation),
        "Certificates that break a rule.",
        _VIOLATION,
        ("rule_id", "certificate_id", "severity", "open"),
        verbs=("list",),
    ),
    Resource(
        TARGET,
        "Where certificates are installed.",
        types="target-types",
        verbs=("update", "delete"),
        switches=("force", "reason"),
        order=8,
        removal="Remove a target that should serve nothing; with --force any.",
    ),
    Resource(
        CERTIFICATE,
        "What is wanted.",
        verbs=("update", "delete"),
        switches=("force",),
        subs=(
            Sub(
                "deployments",
                "List the targets that should serve it.",
                listed.Deployment,
                {
                    "TARGET": "target_name",
                    "AGENT": "agent_id",
                    "SHOULD": "desired_generation",
                    "SERVES": "served_generation",
                    "UNTIL": "served_until",
                    "WHY": "reason",
                },
            ),
            Sub(
                "timeline",
                "List what happened to it, newest first.",
                listed.TimelineEntry,
                {"AT": "at", "FROM": "source", "WHAT": "what", "BY": "actor", "TARGET": "target_id"},
            ),
        ),
        order=9,
        removal="Archive a certificate: its bindings and jobs end, versions and history stay.",
    ),
    Resource(
        AGENT,
        "The hosts that hold keys and deploy.",
        actions=(Action("preflight", "Say what a retirement would meet.", "retirement", reads=True),),
        verbs=("update", "delete"),
        switches=("force", "reason"),
        removal="Retire an agent; refused as long as something depends on it, unless forced with a reason.",
    ),
    Resource(
        Kind("API key", "api-keys", "key", listed.APIKey),
        "Credentials of programs.",
        {
            **_NAMED,
            "ROLE": "role",
            "TEAMS": "teams",
            "ENVIRONMENTS": "environments",
            "ENDS": "expires_at",
            "OFF SINCE": "disabled_at",
            "USED": "last_used_at",
        },
        ("name", "role", "owner_id", "source", "team", "usable"),
        actions=(Action("rotate", "Give it a new value; the old one works on for overlap_s.", "rotate", takes=True),),
        named=False,
        removal="Switch a key off for good.",
    ),
    Resource(
        Kind("ACME external account key", "acme-eab-keys", "eab", listed.ACMEEABKey),
        "Keys that ACME accounts are bound with, and what they may order.",
        {
            **_NAMED,
            "PROFILES": "profile_ids",
            "NAMES": "allowed_names",
            "TEAM": "team_id",
            "ENDS": "expires_at",
            "OFF SINCE": "disabled_at",
        },
        ("name", "owner_id", "team_id", "usable"),
        verbs=("list", "get", "create", "delete"),
        named=False,
        removal="Switch a key off: its accounts get nothing new.",
    ),
    Resource(
        Kind("ACME account", "acme-accounts", "aca", listed.ACMEAccount),
        "Accounts of ACME clients.",
        {"ID": "id", "PROFILE": "profile_id", "CONTACT": "contact", "STATUS": "status", "BOUND BY": "eab_key_id"},
        ("profile_id", "status", "eab_key_id"),
        verbs=("list", "get"),
        actions=(Action("revoke", "End an account for good; what it has got stays valid.", "revoke"),),
        by_id=True,
    ),
    Resource(
        Kind("ACME order", "acme-orders", "aco", listed.ACMEOrder),
        "Orders of ACME clients; one of them tells why a challenge failed, with the evidence.",
        {
            "ID": "id",
            "ACCOUNT": "account_id",
            "PROFILE": "profile_id",
            "CERTIFICATE": "certificate_id",
            "AT": "created_at",
        },
        ("account_id", "profile_id", "certificate_id"),
        verbs=("list", "get"),
        by_id=True,
    ),
    Resource(
        Kind("issuer order", "issuer-orders", "cao", listed.CAOrder),
        "Orders at authorities elsewhere; one of them tells why a challenge failed, and who was to show the answer.",
        {
            "ID": "id",
            "CERTIFICATE": "certificate_id",
            "ISSUER": "issuer_id",
            "STATUS": "status",
            "THERE": "authority_status",
            "AT": "created_at",
            "PROBLEM": "problem",
        },
        ("certificate_id", "job_id", "issuer_id", "status"),
        verbs=("list", "get"),
        by_id=True,
    ),
    Resource(
        Kind("session", "sessions", "ses", listed.PersonSession),
        "People who have signed in.",
        {"ID": "id", "NAME": "name", "E-MAIL": "email", "ROLE": "role", "SEEN": "last_seen_at", "ENDS": "expires_at"},
        ("person_id", "role"),
        verbs=("list", "delete"),
        by_id=True,
        removal="End a session at once.",
    ),
    Resource(
        Kind("view", "views", "view", listed.SavedView),
        "Filters of a list under a name, your own and what others share.",
        {**_NAMED, "PAGE": "page", "OWNER": "owner", "SHARED": "shared"},
        ("name", "page_of", "mine"),
    ),
    Resource(
        Kind("enrollment token", "enrollment-tokens", "tok", model.EnrollmentToken),
        "One-time tokens that let a new agent in.",
        verbs=("delete",),
        by_id=True,
        removal="Make a token useless that has let in nobody yet.",
    ),
    Resource(Kind("event", "audit", "", model.AuditEvent), "What happened, and who did it.", verbs=("get",)),
)
"""Groups that have commands of their own besides (``console.commands``) get here what these do not have."""
