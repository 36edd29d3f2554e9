"""Rules and their violations over HTTP."""

from __future__ import annotations

import inspect
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.policies import store
from coordinator.policies.rules import RULES, read_rule, schema_of
from coordinator.policies.service import rule_changed
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.resource import Resource, routes_of
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.alerts import Severity
from core.errors import NotFound

RuleType = Literal[
    "required_owner",
    "allowed_environments",
    "maximum_lifetime",
    "minimum_renewal_window",
    "allowed_issuers",
    "allowed_key_types",
    "allowed_domains",
    "required_names",
    "required_tags",
]
Enforce = Literal["warn", "block"]


class PolicyBody(Strict):
    """A rule. ``GET /api/v1/policy-types`` says what each type's ``config`` holds.

    ``warn`` stores violations; ``block`` also refuses what breaks the rule, when it is wanted and when it is issued.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    type: RuleType
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    severity: Severity = "warning"
    enforce: Enforce = "warn"
    enabled: bool = True


class Policy(msgspec.Struct):
    """A rule as it is."""

    id: str
    name: str
    description: str
    type: str
    config: dict[str, Any]
    severity: str
    enforce: str
    enabled: bool
    revision: int
    created_at: datetime
    updated_at: datetime


class PolicyType(msgspec.Struct):
    """A type of rules; ``field`` is what of a certificate it is about, ``schema`` the JSON schema of ``config``."""

    type: str
    description: str
    field: str
    schema: dict[str, Any]


class PolicyTypes(msgspec.Struct):
    """All types of rules."""

    data: list[PolicyType]


class Violation(msgspec.Struct):
    """A certificate that breaks a rule, until ``closed_at`` if that is set."""

    id: str
    rule_id: str
    rule_name: str
    certificate_id: str
    common_name: str
    severity: str
    enforce: str
    field: str
    message: str
    created_at: datetime
    closed_at: datetime | None


class PolicyQuery(PageQuery):
    """Filters of the list of rules."""

    name: str | None = None
    type: RuleType | None = None
    severity: Severity | None = None
    enforce: Enforce | None = None
    enabled: bool | None = None


class RuleViolationQuery(PageQuery):
    """Filters of one rule's violations."""

    certificate_id: str | None = None
    severity: Severity | None = None
    open: bool | None = None


class ViolationQuery(RuleViolationQuery):
    """Filters of the list of violations."""

    rule_id: str | None = None


async def _values(_conn: Connection, body: PolicyBody, _row: Row | None) -> dict[str, Any]:
    read_rule(body.type, body.config)
    values: dict[str, Any] = msgspec.to_builtins(body)
    return values


POLICIES = Resource(
    "policy",
    "/api/v1/policies",
    "pol",
    store.TABLE,
    store.LISTING,
    PolicyBody,
    Policy,
    Permission.POLICIES_WRITE,
    PolicyQuery,
    values=_values,
    follows=rule_changed,
)


async def list_types(_call: Call[NoBody, NoQuery]) -> PolicyTypes:
    """List the types of rules, and what each is told."""
    return PolicyTypes(
        [PolicyType(name, inspect.getdoc(rule) or "", rule.field, schema_of(name)) for name, rule in RULES.items()]
    )


async def list_violations(call: Call[NoBody, ViolationQuery]) -> Page[Violation] | Streamed:
    """List violations, newest first."""
    return await read_page(call, store.VIOLATIONS, Violation)


async def list_violations_of_rule(call: Call[NoBody, RuleViolationQuery]) -> Page[Violation] | Streamed:
    """List the violations of one rule, newest first."""
    rule_id = call.path[POLICIES.parameter]
    async with call.ctx.db.connection() as conn:
        POLICIES.found(await store.TABLE.get(conn, rule_id), rule_id, call.actor.scope)
    return await read_page(call, store.VIOLATIONS, Violation, rule_id=rule_id)


_OF_RULE = f"{POLICIES.path}/{{{POLICIES.parameter}}}/violations"

ROUTES = [
    *routes_of(POLICIES),
    Route("GET", "/api/v1/policy-types", list_types, Permission.READ, "List the types of policies", PolicyTypes),
    Route("GET", "/api/v1/violations", list_violations, Permission.READ, "List violations", Page[Violation],
          query=ViolationQuery, listing=store.VIOLATIONS),
    Route("GET", _OF_RULE, list_violations_of_rule, Permission.READ, "List a policy's violations", Page[Violation],
          query=RuleViolationQuery, errors=(NotFound,), listing=store.VIOLATIONS),
]  # fmt: skip
