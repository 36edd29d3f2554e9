"""How a certificate stands is told by one rule: what a list filters by is what it shows, in every state there is."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import Any, get_args

import pytest

from coordinator.certificates.status import Life, Service
from tests.coordinator.world import World

pytestmark = pytest.mark.anyio
CERTIFICATES, STEPS = 60, 240
_VERSION = """
INSERT INTO certificate_versions (id, certificate_id, generation, holder, issuer_id, issuer_ski, serial, fingerprint,
  spki_sha256, key_algorithm, not_before, not_after, der, chain)
VALUES ($1::text, $2, $3, $4, 'iss-local', '', $1, $1, $1, '', $5, $5, '', '{}')
"""


class Scribbler:
    """Writes anything into the tables that say how certificates stand, as no room ever would."""

    def __init__(self, world: World, agents: list[str], targets: list[str], seed: int) -> None:
        self.world, self.agents, self.targets = world, agents, targets
        self.random = random.Random(seed)
        self.versions: dict[str, list[str]] = {}

    async def from_elsewhere(self, certificate_id: str) -> None:
        """Give a certificate a version that was imported, as long as nobody holds it."""
        ends, version_id = self.moment(), f"cv-of-{certificate_id}"
        await self.world.execute(_VERSION, version_id, certificate_id, 1, "imported", ends)
        await self.world.execute("UPDATE certificates SET source = 'imported' WHERE id = $1", certificate_id)
        await self.world.execute("SELECT stand_anew(ARRAY[$1])", certificate_id)
        self.versions[certificate_id] = [version_id]

    async def version(self, certificate_id: str) -> str | None:
        """Return a version of the certificate, an old or a new one, or None."""
        known = self.versions.setdefault(certificate_id, [])
        if self.random.random() < 0.2:
            return None
        if not known or self.random.random() < 0.5:
            number = sum(map(len, self.versions.values()))
            ends = self.moment()
            await self.world.execute(_VERSION, f"cv-{number}", certificate_id, number, self.agents[0], ends)
            known.append(f"cv-{number}")
        return self.random.choice(known)

    def moment(self) -> Any:
        return self.world.clock.now() + timedelta(days=self.random.choice([-3, -1, 0, 1, 5, 90]))

    async def step(self, certificate_id: str) -> None:
        agent, target = self.random.choice(self.agents), self.random.choice(self.targets)
        one, two = await self.version(certificate_id), await self.version(certificate_id)
        due = self.random.choice([None, self.moment()])
        write: list[tuple[str, tuple[Any, ...]]] = [
            (
                """INSERT INTO holders (certificate_id, agent_id, version_id, renew_at) VALUES ($1, $2, $3, $4)
                ON CONFLICT (certificate_id, agent_id) DO UPDATE SET version_id = $3, renew_at = $4""",
                (certificate_id, agent, one, due),
            ),
            ("UPDATE holders SET version_id = $2 WHERE certificate_id = $1", (certificate_id, one)),
            ("DELETE FROM holders WHERE certificate_id = $1 AND agent_id = $2", (certificate_id, agent)),
            (
                """INSERT INTO bindings (certificate_id, target_id, desired_version_id, served_version_id)
                VALUES ($1, $2, $3, $4) ON CONFLICT (target_id) DO NOTHING""",
                (certificate_id, target, one, two),
            ),
            ("UPDATE bindings SET served_version_id = desired_version_id WHERE target_id = $1", (target,)),
            (
                "UPDATE bindings SET desired_version_id = $2, served_version_id = $3 WHERE certificate_id = $1",
                (certificate_id, one, two),
            ),
            ("UPDATE bindings SET drift = 'changed' WHERE target_id = $1", (target,)),
            ("UPDATE bindings SET drift = '' WHERE target_id = $1", (target,)),
            ("DELETE FROM bindings WHERE target_id = $1", (target,)),
            ("UPDATE certificate_versions SET revoked_at = now() WHERE id = $1", (one,)),
        ]
        sql, arguments = self.random.choices(write, weights=[6, 2, 1, 4, 4, 2, 1, 1, 1, 0.5])[0]
        await self.world.execute(sql, *arguments)


async def test_lists_find_a_certificate_under_what_they_show(world: World) -> None:
    agents = [await world.agent(f"agent-{number}") for number in range(3)]
    targets = [await world.target(agents[number % 3], f"t-{number}") for number in range(120)]
    ids = [(await world.certificate(common_name=f"n{number}.test"))[0] for number in range(CERTIFICATES)]
    scribbler = Scribbler(world, [agent.id for agent in agents], targets, seed=20)
    for certificate_id in ids[::3]:
        await scribbler.from_elsewhere(certificate_id)
    for _ in range(STEPS * 4):
        await scribbler.step(scribbler.random.choice(ids[:-6]))
    await world.execute("UPDATE certificate_versions SET revoked_at = now() WHERE id = $1", f"cv-of-{ids[::3][-1]}")
    shown = (await world.get("/api/v1/certificates", per_page=500))["data"]
    seen = Counter[str]()
    for axis, values in (("life", get_args(Life)), ("service", get_args(Service))):
        for value in values:
            found = (await world.get("/api/v1/certificates", per_page=500, **{axis: value}))["data"]
            expected = {row["id"] for row in shown if row["status"][axis] == value}
            assert {row["id"] for row in found} == expected, f"{axis} {value}"
            seen[f"{axis} {value}"] = len(expected)
    assert min(seen.values()) > 0, f"states that never came up: {seen}"
    for column in ("expires_at", "renew_at"):
        rows = await world.rows(f"SELECT id, nullif({column}, 'infinity') AS moment FROM certificates")
        kept = {row["id"]: row["moment"].isoformat() if row["moment"] else None for row in rows}
        said = {row["id"]: row["status"][column] for row in shown}
        assert {key: value and value.replace("+00:00", "Z") for key, value in kept.items()} == said


async def test_of_two_targets_that_report_at_once_both_are_counted(world: World) -> None:
    agent = await world.agent()
    targets = [await world.target(agent, f"site-{number}") for number in range(2)]
    certificate_id, _ = await world.certificate(target_ids=targets)
    await agent.issue(await agent.item())
    async with world.ctx.db.transaction() as first:
        update = "UPDATE bindings SET served_version_id = desired_version_id WHERE target_id = $1"
        await first.execute(update, targets[0])

        async def second() -> None:
            await world.execute(update, targets[1])

        other = asyncio.create_task(second())
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while not await world.value(waiting):
            assert not other.done()
    await other
    assert await world.value("SELECT service FROM certificates WHERE id = $1", certificate_id) == "served"
