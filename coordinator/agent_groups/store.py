"""SQL of agent groups. Who is in one is said by the view ``group_agents``, for every reader alike."""

from __future__ import annotations

from coordinator.database.connection import Connection
from coordinator.database.listing import CREATED, Listing, Sort
from coordinator.database.table import Table

TABLE = Table(
    "agent_groups",
    (
        "name",
        "description",
        "match_os",
        "match_architecture",
        "match_ip_cidr",
        "match_version",
        "version_min",
        "version_below",
    ),
)
LISTING = Listing(
    TABLE.reads,
    "agent_groups",
    "grp",
    filters={"name": "name = {}"},
    sorts={"created_at": CREATED, "name": Sort("name")},
)
MEMBERS = Listing(
    """id, name, hostname, os, architecture, address, version, membership,
      last_seen_at > now() - interval '2 minutes' AS online, enrolled_at""",
    "agents JOIN group_agents ON agent_id = id",
    "ag",
    filters={"group_id": "group_id = {}", "membership": "membership = {}"},
    sorts={"enrolled_at": Sort("enrolled_at", "timestamptz"), "name": Sort("name")},
)


async def set_member(conn: Connection, group_id: str, agent_id: str, membership: str) -> None:
    """Put an agent on one of a group's lists; a violated reference passes through."""
    await conn.execute(
        """
        INSERT INTO agent_group_members (group_id, agent_id, membership) VALUES ($1, $2, $3)
        ON CONFLICT (group_id, agent_id) DO UPDATE SET membership = excluded.membership
        """,
        group_id,
        agent_id,
        membership,
    )


async def forget_member(conn: Connection, group_id: str, agent_id: str) -> bool:
    """Take an agent off both lists of a group; say whether it was on one."""
    return bool(
        await conn.execute("DELETE FROM agent_group_members WHERE group_id = $1 AND agent_id = $2", group_id, agent_id)
    )
