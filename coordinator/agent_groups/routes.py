"""Agent groups over HTTP: what makes one, who is in it, who is put in or kept out by hand."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from coordinator.agent_groups import service, store
from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from coordinator.web.paging import Page, PageQuery, read_page
from coordinator.web.resource import Resource, Use, routes_of
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Streamed, Strict
from core.errors import InvalidInput, NotFound
from core.versions import version_range

Text = Annotated[str, msgspec.Meta(max_length=255)]


class AgentGroupBody(Strict):
    """Agents that fit all that is said; empty fields fit every agent, and a group without any has its list only.

    ``match_version`` is a range like ``>=1.2,<2``. Agents say these things of themselves.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    match_os: Text = ""
    match_architecture: Text = ""
    match_ip_cidr: Text = ""
    match_version: Text = ""


class AgentGroup(msgspec.Struct):
    """An agent group as it is."""

    id: str
    name: str
    description: str
    match_os: str
    match_architecture: str
    match_ip_cidr: str
    match_version: str
    revision: int
    created_at: datetime
    updated_at: datetime


class GroupMember(msgspec.Struct):
    """An agent of a group: put into it by hand (``include``), or because it fits (``matched``)."""

    id: str
    name: str
    hostname: str
    os: str
    architecture: str
    address: str
    version: str
    membership: str
    online: bool
    enrolled_at: datetime


class SetMember(Strict):
    """Put an agent into a group, or keep it out."""

    membership: service.Membership


class ListedMember(msgspec.Struct):
    """An agent on one of a group's lists."""

    agent_group_id: str
    agent_id: str
    membership: str


class AgentGroupQuery(PageQuery):
    """Filters of the list of agent groups."""

    name: str | None = None


class MemberQuery(PageQuery):
    """Filters of a group's members."""

    membership: Literal["include", "matched"] | None = None


async def _values(_conn: Connection, body: AgentGroupBody, _row: Row | None) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(body)
    least, below = version_range(body.match_version, field="match_version") if body.match_version else (None, None)
    return values | {
        "match_ip_cidr": _network(body.match_ip_cidr) if body.match_ip_cidr else "",
        "version_min": least,
        "version_below": below,
    }


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError as error:
        raise InvalidInput.of("match_ip_cidr", f"is not a network like 10.0.0.0/8: {error}") from error


GROUPS = Resource(
    "agent_group",
    "/api/v1/agent-groups",
    "grp",
    store.TABLE,
    store.LISTING,
    AgentGroupBody,
    AgentGroup,
    Permission.POLICIES_WRITE,
    AgentGroupQuery,
    values=_values,
    follows=service.changed,
    uses=(Use("renewal_policies", "agent_group_id", "renewal policies"),),
)


async def list_members(call: Call[NoBody, MemberQuery]) -> Page[GroupMember] | Streamed:
    """List the agents that are in a group now, newest first."""
    group_id = call.path[GROUPS.parameter]
    async with call.ctx.db.connection() as conn:
        GROUPS.found(await store.TABLE.get(conn, group_id), group_id, call.actor.scope)
    return await read_page(call, store.MEMBERS, GroupMember, group_id=group_id)


async def set_member(call: Call[SetMember, NoQuery]) -> ListedMember:
    """Put an agent into a group or keep it out, whatever it says of its host."""
    group_id, agent_id, membership = call.path[GROUPS.parameter], call.path["agent_id"], call.body.membership
    async with call.ctx.db.transaction() as tx:
        await GROUPS.locked(tx, group_id, call.actor.scope)
        await service.set_member(tx, call.actor, group_id, agent_id, membership, call.request_id)
    return ListedMember(group_id, agent_id, membership)


async def forget_member(call: Call[NoBody, NoQuery]) -> None:
    """Let what an agent says of its host decide again."""
    group_id, agent_id = call.path[GROUPS.parameter], call.path["agent_id"]
    async with call.ctx.db.transaction() as tx:
        await GROUPS.locked(tx, group_id, call.actor.scope)
        await service.forget_member(tx, call.actor, group_id, agent_id, call.request_id)


_MEMBERS = f"{GROUPS.path}/{{{GROUPS.parameter}}}/members"
_MEMBER = f"{_MEMBERS}/{{agent_id}}"

ROUTES = [
    *routes_of(GROUPS),
    Route("GET", _MEMBERS, list_members, Permission.READ, "List the agents of a group", Page[GroupMember],
          query=MemberQuery, errors=(NotFound,), listing=store.MEMBERS),
    Route("PUT", _MEMBER, set_member, GROUPS.write, "Put an agent into a group or keep it out", ListedMember,
          request=SetMember, errors=(NotFound,)),
    Route("DELETE", _MEMBER, forget_member, GROUPS.write, "Take an agent off a group's lists", None, status=204,
          errors=(NotFound,)),
]  # fmt: skip
