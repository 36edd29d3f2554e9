"""Rows of a large installation, made up: some values on nearly everything, some on next to nothing.

A certificate is held by one agent and served by one target; a fifth was renewed once. What the columns say of how one
stands is what the schema's own function would write.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

TEAMS, OWNERS, AGENTS_PER = 50, 500, 100
CERTIFICATES, VERSIONS_SHARE, EVENTS_SHARE, JOBS_SHARE = 1_000_000, 1.2, 5, 0.2
RARE = "zanzibar"
"""A word that one certificate in ten thousand has in its name; every one has ``example``."""
_ENVIRONMENTS = (("prod", 40), ("staging", 30), ("test", 20), ("dev", 9.9), ("lab", 0.1))
APPS = ("api", "shop", "mail", "auth", "cdn", "db", "queue", "search", "billing", "edge")
_REGIONS = ("eu-west", "eu-north", "us-east", "us-west", "ap-south")
_STANDS = (("served", 92), ("outdated", 3), ("not served", 2), ("pending", 2), ("revoked", 1))
_LIFETIME = timedelta(days=47)
_STEPS = json.dumps(
    [{"step": step, "at": "2026-01-01T00:00:00+00:00"} for step in ("queued", "delivered", "completed")]
)
_UNRENEWED, _ARCHIVED, _EACH = 0.02, 0.05, 10_000
Row = tuple[Any, ...]


class Batch(NamedTuple):
    """Rows for one table."""

    table: str
    columns: tuple[str, ...]
    rows: Iterator[Row]
    size: int


@dataclass(frozen=True)
class Stock:
    """What is made up, for ``certificates`` of them; the same every time but for the moment."""

    certificates: int
    now: datetime

    @property
    def agents(self) -> int:
        """Return how many agents hold them."""
        return max(1, self.certificates // AGENTS_PER)

    def id(self, number: int) -> str:
        """Return the id of a certificate."""
        return f"mc-{number:026d}"

    def batches(self) -> list[Batch]:
        """Return all rows, in an order that references allow."""
        count, again = self.certificates, round(self.certificates * (VERSIONS_SHARE - 1))
        people = ("id", "name")
        events = ("at", "era", "actor", "action", "resource_type", "resource_id", "request_id", "details")
        return [
            Batch("teams", people, ((f"team-{n}", f"Team {n}") for n in range(TEAMS)), TEAMS),
            Batch("owners", (*people, "team_id"),
                  ((f"o-{n}", f"Owner {n}", f"team-{n % TEAMS}") for n in range(OWNERS)), OWNERS),
            Batch("issuers", (*people, "type"), ((f"iss-{n}", f"Issuer {n}", "local") for n in range(2)), 2),
            Batch("renewal_policies", people, ((f"rp-{n}", f"Policy {n}") for n in range(2)), 2),
            Batch("agents", (*people, "identity_key", "sealing_key"),
                  ((f"ag-{n}", f"host-{n}", n.to_bytes(32), b"") for n in range(self.agents)), self.agents),
            Batch("targets", (*people, "type", "agent_id", "config"),
                  ((f"tgt-{n}", f"site-{n}", "nginx", self._agent(n), "{}") for n in range(count)), count),
            Batch("certificates", _CERTIFICATE, map(self._certificate, range(count)), count),
            Batch("certificate_versions", _VERSION, self._versions(again, _leaf()), count + again),
            Batch("holders", ("certificate_id", "agent_id", "version_id", "renew_at"), map(self._holder, range(count)),
                  count),
            Batch("bindings", ("certificate_id", "target_id", "desired_version_id", "served_version_id", "served_at"),
                  map(self._binding, range(count)), count),
            Batch("jobs", _JOB, self._jobs(), round(count * JOBS_SHARE)),
            Batch("audit_events", events, map(self._event, range(count * EVENTS_SHARE)), count * EVENTS_SHARE),
        ]  # fmt: skip

    def _agent(self, number: int) -> str:
        return f"ag-{number % self.agents}"

    def _has_an_old_one(self, number: int) -> bool:
        return number < round(self.certificates * (VERSIONS_SHARE - 1))

    def _facts(self, number: int) -> _Facts:
        """Return what is known of a certificate: the same whenever it is asked for."""
        dice = random.Random(number)
        stand = _pick(dice, _STANDS)
        if stand == "outdated" and not self._has_an_old_one(number):
            stand = "not served"
        made = self.now - timedelta(days=400) * (1 - number / self.certificates)
        if stand == "pending":
            return _Facts(stand, made, None, None)
        issued = max(made, self.now - _LIFETIME * dice.random() * 0.66)
        if dice.random() < _UNRENEWED:
            issued = self.now - _LIFETIME * (0.67 + dice.random() * 0.5)
        ends = issued + _LIFETIME
        return _Facts(stand, made, ends, ends - _LIFETIME / 3)

    def _certificate(self, number: int) -> Row:
        dice, facts = random.Random(-number - 1), self._facts(number)
        word = RARE if number % _EACH == 0 else dice.choice(APPS)
        team = int(TEAMS * dice.random() ** 2)
        name = f"{word}-{number}.{dice.choice(_REGIONS)}.team{team}.example.com"
        names = json.dumps([{"kind": "dns", "value": value} for value in (name, f"www.{name}")])
        tags = json.dumps({"app": dice.choice(APPS), "tier": str(dice.randrange(3)), "ticket": f"T-{number}"})
        standing = facts.stand if facts.stand in {"pending", "revoked"} else "issued"
        service = {"pending": "unknown", "revoked": "served"}.get(facts.stand, facts.stand)
        never = datetime.max.replace(tzinfo=UTC) if facts.ends is None else None
        return (
            self.id(number), name, name, names, "prof-default", dice.choice(("iss-local", "iss-local", "iss-0")),
            dice.choice(("rp-default", "rp-default", "rp-0")), f"o-{dice.randrange(OWNERS)}", f"team-{team}",
            _pick(dice, _ENVIRONMENTS), tags, "ecdsa-p256", int(_LIFETIME.total_seconds()), facts.made,
            facts.made + (self.now - facts.made) * dice.random(), standing, service, never or facts.ends,
            never or facts.due, self.now if dice.random() < _ARCHIVED else None,
        )  # fmt: skip

    def _versions(self, again: int, der: bytes) -> Iterator[Row]:
        for number in range(self.certificates):
            yield self._version(number, 1, der)
        for number in range(again):
            yield self._version(number, 0, der)

    def _version(self, number: int, generation: int, der: bytes) -> Row:
        facts, name = self._facts(number), f"{generation}{number:025d}"
        ends = facts.ends or self.now
        begins = ends - _LIFETIME
        revoked = self.now if facts.stand == "revoked" and generation else None
        return (
            f"cv-{name}", self.id(number), generation + 1, self._agent(number), "iss-local", "", name, name, name,
            "ecdsa-p256", begins, ends, der, [], revoked, begins,
        )  # fmt: skip

    def _holder(self, number: int) -> Row:
        facts = self._facts(number)
        version = None if facts.stand == "pending" else f"cv-1{number:025d}"
        return (self.id(number), self._agent(number), version, facts.due)

    def _binding(self, number: int) -> Row:
        stand = self._facts(number).stand
        wanted = None if stand == "pending" else f"cv-1{number:025d}"
        old = f"cv-0{number:025d}" if self._has_an_old_one(number) else None
        shown = {"pending": None, "not served": None, "outdated": old}.get(stand, wanted)
        return (self.id(number), f"tgt-{number}", wanted, shown, None if shown is None else self.now)

    def _jobs(self) -> Iterator[Row]:
        """Yield jobs that ended, and those that an installation with agents away has: for all that is due."""
        for number in range(self.certificates):
            facts = self._facts(number)
            if facts.due is None or facts.due <= self.now:
                yield self._job(number, "AwaitingCSR")
            elif number < self.certificates * JOBS_SHARE:
                yield self._job(number, "Completed")

    def _job(self, number: int, state: str) -> Row:
        at, name = self.now - timedelta(seconds=number), f"job-{number:026d}"
        return (name, "issuance", name, self.id(number), self._agent(number), state, "due", _STEPS, at)

    def _event(self, number: int) -> Row:
        at = self.now - timedelta(days=400) * (1 - number / (self.certificates * EVENTS_SHARE))
        action = ("certificate.created", "certificate.csr_accepted", "certificate.issued", "deployment.served",
                  "certificate.due")[number % EVENTS_SHARE]  # fmt: skip
        details = json.dumps({"job_id": f"job-{number:026d}", "serial": f"{number:032x}"})
        resource = self.id(number * 7919 % self.certificates)
        # Of an era that is over: nobody seals these, and the transaction that copies them is no batch.
        return (at, 0, f"agent:{self._agent(number)}", action, "certificate", resource, f"req-{number:026d}", details)


class _Facts(NamedTuple):
    stand: str
    made: datetime
    ends: datetime | None
    due: datetime | None


_CERTIFICATE = ("id", "name", "common_name", "names", "profile_id", "issuer_id", "renewal_policy_id", "owner_id",
                "team_id", "environment", "tags", "key_algorithm", "lifetime_s", "created_at", "updated_at", "standing",
                "service", "expires_at", "renew_at", "archived_at")  # fmt: skip
_VERSION = ("id", "certificate_id", "generation", "holder", "issuer_id", "issuer_ski", "serial", "fingerprint",
            "spki_sha256", "key_algorithm", "not_before", "not_after", "der", "chain", "revoked_at",
            "created_at")  # fmt: skip
_JOB = ("id", "kind", "run_id", "certificate_id", "agent_id", "state", "trigger", "timeline", "created_at")


def _leaf() -> bytes:
    """Return a certificate in DER, which stands for all of them: what counts is its length."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.test")])
    names = x509.SubjectAlternativeName([x509.DNSName("a.test"), x509.DNSName("www.a.test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + _LIFETIME)
    return builder.add_extension(names, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _pick(dice: random.Random, shares: tuple[tuple[str, float], ...]) -> str:
    return dice.choices([name for name, _ in shares], [share for _, share in shares])[0]
