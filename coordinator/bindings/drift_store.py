"""SQL of installations that are not as they were left."""

from __future__ import annotations

from datetime import timedelta

from coordinator.database.connection import Connection
from coordinator.database.driver import Record as Row
from core.wire import InstalledState


async def installation(conn: Connection, target_id: str, agent_id: str) -> Row | None:
    """Return the binding of an agent's target, locked, with its certificate's name and what its policy says."""
    return await conn.fetchrow(
        """
        SELECT bindings.certificate_id, target_id, targets.agent_id, targets.name AS target_name, targets.enabled,
          desired_version_id, fingerprint, drift, on_drift, certificates.name AS certificate_name
        FROM bindings JOIN targets ON targets.id = bindings.target_id
        JOIN certificates ON certificates.id = bindings.certificate_id
        JOIN renewal_policies ON renewal_policies.id = renewal_policy_id
        LEFT JOIN certificate_versions AS versions ON versions.id = desired_version_id
        WHERE target_id = $1 AND targets.agent_id = $2 FOR UPDATE OF bindings
        """,
        target_id,
        agent_id,
    )


async def set_drift(conn: Connection, target_id: str, state: InstalledState, reason: str) -> None:
    """Note what is not as it was installed; what is not served is not counted as served."""
    await conn.execute(
        """
        UPDATE bindings SET drift = $2, reason = $3,
          drift_since = CASE WHEN drift = '' THEN now() ELSE drift_since END,
          served_version_id = CASE WHEN $2 = 'served differs' THEN NULL ELSE served_version_id END,
          served_at = CASE WHEN $2 = 'served differs' THEN NULL ELSE served_at END
        WHERE target_id = $1
        """,
        target_id,
        state,
        reason,
    )


async def end_drift(conn: Connection, target_id: str, *, seen: bool) -> None:
    """Note that everything is as it was installed, and whether the desired version was seen served."""
    await conn.execute(
        """
        UPDATE bindings SET drift = '', drift_since = NULL, reason = '',
          served_version_id = CASE WHEN $2 THEN desired_version_id ELSE served_version_id END,
          served_at = CASE WHEN $2 THEN now() ELSE served_at END
        WHERE target_id = $1
        """,
        target_id,
        seen,
    )


async def repairs(conn: Connection, certificate_id: str, target_id: str, within: timedelta) -> int:
    """Return how many repairs of a target were begun lately."""
    return int(
        await conn.fetchval(
            """
            SELECT count(*) FROM jobs WHERE certificate_id = $1 AND created_at > now() - $3::interval
              AND target_id = $2 AND trigger = 'drift'
            """,
            certificate_id,
            target_id,
            within,
        )
    )
