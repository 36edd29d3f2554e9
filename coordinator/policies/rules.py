"""The types of rules: what each is told (a typed configuration) and when a certificate breaks it. No I/O.

A new type is a struct with ``problem``, and its line in ``RULES``; the schema that callers read comes from the struct.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

import msgspec

from core.decoding import wrong_field
from core.errors import InvalidInput
from core.keys import KeyChoice, chosen_algorithms
from core.names import Name
from core.patterns import check_pattern, matches
from core.renewal import renew_at

NOBODY = "default"
"""The ready-made owner, who stands for nobody having been named."""
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
Words = Annotated[tuple[Word, ...], msgspec.Meta(min_length=1, max_length=200)]


class Wanted(msgspec.Struct, frozen=True):
    """A certificate as far as rules look at it, with what its owner and its renewal policy say."""

    id: str
    names: tuple[Name, ...]
    owner_id: str
    owner_email: str
    environment: str
    tags: dict[str, str]
    issuer_id: str
    key_algorithm: str
    lifetime_s: int
    auto_renew: bool
    days_before: int | None
    archived: bool = False

    @property
    def renewed_before_its_end(self) -> timedelta:
        """Return how long before its end it is renewed by itself; nothing when it is not."""
        if not self.auto_renew:
            return timedelta()
        start = datetime(2000, 1, 1, tzinfo=UTC)
        end = start + timedelta(seconds=self.lifetime_s)
        return end - renew_at(start, end, start, self.days_before)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a rule is told. ``field`` is what a certificate would have to change."""

    field: ClassVar[str]

    @abstractmethod
    def problem(self, wanted: Wanted) -> str:
        """Say what is wrong with a certificate; empty when it keeps the rule."""

    def check(self) -> None:
        """Raise ``InvalidInput`` for a configuration that makes no sense; nothing to check beyond its types here."""


class RequiredOwner(Rule, frozen=True):
    """Somebody other than the ready-made owner answers for the certificate; with ``email``, can be written to."""

    field: ClassVar[str] = "owner_id"
    email: bool = False

    def problem(self, wanted: Wanted) -> str:
        """Look at the owner."""
        if wanted.owner_id == NOBODY:
            return "names nobody who answers for the certificate"
        return f"is {wanted.owner_id}, who has no e-mail address" if self.email and not wanted.owner_email else ""


class AllowedEnvironments(Rule, frozen=True):
    """The certificate is for one of these environments."""

    field: ClassVar[str] = "environment"
    environments: Words

    def problem(self, wanted: Wanted) -> str:
        """Look at the environment."""
        if wanted.environment in self.environments:
            return ""
        return f"is {wanted.environment!r}; allowed are {', '.join(self.environments)}"


class MaximumLifetime(Rule, frozen=True):
    """No version lives longer."""

    field: ClassVar[str] = "lifetime_s"
    max_lifetime_s: Annotated[int, msgspec.Meta(ge=60)]

    def problem(self, wanted: Wanted) -> str:
        """Look at the lifetime."""
        over = wanted.lifetime_s > self.max_lifetime_s
        return f"is {wanted.lifetime_s} s; at most {self.max_lifetime_s} s are allowed" if over else ""


class MinimumRenewalWindow(Rule, frozen=True):
    """The certificate is renewed by itself, so many days before its end or earlier."""

    field: ClassVar[str] = "renewal_policy_id"
    days: Annotated[int, msgspec.Meta(ge=1, le=3650)]

    def problem(self, wanted: Wanted) -> str:
        """Look at the policy and the lifetime together."""
        window = wanted.renewed_before_its_end
        if window >= timedelta(days=self.days):
            return ""
        if not window:
            return f"renews nothing by itself; renewal at least {self.days} days before the end is asked for"
        found = f"{window.total_seconds() / 86400:.1f} days"
        return f"renews {found} before the end of {wanted.lifetime_s} s; at least {self.days} days are asked for"


class AllowedIssuers(Rule, frozen=True):
    """One of these issuers signs."""

    field: ClassVar[str] = "issuer_id"
    issuer_ids: Words

    def problem(self, wanted: Wanted) -> str:
        """Look at the issuer."""
        found = wanted.issuer_id
        return "" if found in self.issuer_ids else f"is {found}; allowed are {', '.join(self.issuer_ids)}"


class AllowedKeyTypes(Rule, frozen=True):
    """The key is one of these: names of algorithms, or a family and its least size."""

    field: ClassVar[str] = "key_algorithm"
    key_algorithms: Annotated[tuple[KeyChoice, ...], msgspec.Meta(min_length=1, max_length=20)]

    def problem(self, wanted: Wanted) -> str:
        """Look at the key."""
        allowed = chosen_algorithms(self.key_algorithms, field="config.key_algorithms")
        found = wanted.key_algorithm
        return "" if found in allowed else f"is {found}; allowed are {', '.join(allowed)}"

    def check(self) -> None:
        """Refuse sizes that nobody makes."""
        chosen_algorithms(self.key_algorithms, field="config.key_algorithms")


class AllowedDomains(Rule, frozen=True):
    """Every name matches one of these patterns."""

    field: ClassVar[str] = "sans"
    patterns: Words

    def problem(self, wanted: Wanted) -> str:
        """Look at each name."""
        others = [str(name) for name in wanted.names if not any(matches(name, each) for each in self.patterns)]
        return f"hold {', '.join(others)[:500]}; allowed are {', '.join(self.patterns)[:500]}" if others else ""

    def check(self) -> None:
        """Refuse patterns that match nothing."""
        _check_patterns(self.patterns)


class RequiredNames(Rule, frozen=True):
    """Each of these patterns is matched by some name."""

    field: ClassVar[str] = "sans"
    patterns: Words

    def problem(self, wanted: Wanted) -> str:
        """Look for each pattern."""
        lacking = [each for each in self.patterns if not any(matches(name, each) for name in wanted.names)]
        return f"lack a name of the form {', '.join(lacking)[:500]}" if lacking else ""

    def check(self) -> None:
        """Refuse patterns that match nothing."""
        _check_patterns(self.patterns)


class RequiredTags(Rule, frozen=True):
    """The certificate has these tags, each with one of the listed values; an empty list takes any but an empty one."""

    field: ClassVar[str] = "tags"
    tags: Annotated[dict[str, tuple[str, ...]], msgspec.Meta(min_length=1, max_length=50)]

    def problem(self, wanted: Wanted) -> str:
        """Look at each tag."""
        return "; ".join(filter(None, (self._wrong(name, wanted.tags.get(name, "")) for name in self.tags)))[:1000]

    def _wrong(self, name: str, value: str) -> str:
        values = self.tags[name]
        if not value:
            return f"lack {name}"
        return f"have {name}={value}; allowed are {', '.join(values)}" if values and value not in values else ""


RULES: Mapping[str, type[Rule]] = {
    "required_owner": RequiredOwner,
    "allowed_environments": AllowedEnvironments,
    "maximum_lifetime": MaximumLifetime,
    "minimum_renewal_window": MinimumRenewalWindow,
    "allowed_issuers": AllowedIssuers,
    "allowed_key_types": AllowedKeyTypes,
    "allowed_domains": AllowedDomains,
    "required_names": RequiredNames,
    "required_tags": RequiredTags,
}


def read_rule(type_name: str, config: Mapping[str, Any]) -> Rule:
    """Return a rule of a known type; raise ``InvalidInput`` that names the wrong field of its configuration."""
    try:
        rule = msgspec.convert(config, RULES[type_name])
    except msgspec.ValidationError as error:
        wrong = wrong_field(error, "config")
        raise InvalidInput.of(wrong.field, wrong.problem) from error
    rule.check()
    return rule


def schema_of(type_name: str) -> dict[str, Any]:
    """Return the JSON schema of a type's configuration."""
    return msgspec.json.schema(RULES[type_name])


def _check_patterns(patterns: tuple[str, ...]) -> None:
    for place, pattern in enumerate(patterns):
        check_pattern(pattern, field=f"config.patterns[{place}]")
