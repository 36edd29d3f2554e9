"""An agent that holds certificates of an ACME authority: Pebble, whose test server shows what agents are told."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from coordinator.jobs import service as jobs
from coordinator.ordering import working
from core import wire
from tests.connectors.issuers.acme.pebble import Pebble
from tests.coordinator.world import FakeAgent, World, csr_for, done

ISSUER, PROFILE, HOST = "iss-public", "prof-public", "www.example.test"


class Case:
    """An agent that holds certificates of a public authority."""

    def __init__(self, world: World, pebble: Pebble, agent: FakeAgent) -> None:
        self.world, self.pebble, self.agent = world, pebble, agent

    def issuer(self, **config: Any) -> dict[str, Any]:
        fixed = {
            "directory_url": self.pebble.directory_url,
            "terms_agreed": True,
            "connection": {"ca_bundle": self.pebble.root},
        }
        return {"id": ISSUER, "name": "public", "type": "acme", "config": {**fixed, **config}}

    async def add(self, body: dict[str, Any], profile_id: str = PROFILE, **profile: Any) -> None:
        await self.world.post("/api/v1/issuers", body)
        fields = {"id": profile_id, "name": profile_id, "default_issuer_id": body["id"], "max_lifetime_s": 90 * 86400}
        await self.world.post("/api/v1/profiles", {**fields, **profile})

    async def ask(self, **wish: Any) -> str:
        """Ask for a certificate and hand in its CSR; return its id."""
        wish = {"common_name": HOST, "agent_id": self.agent.id, "profile_id": PROFILE, **wish}
        certificate_id, _ = await self.world.certificate(**wish)
        await self.hand_in()
        return certificate_id

    async def hand_in(self) -> wire.CSRAnswer:
        item = await self.agent.item()
        return msgspec.convert(done(await self.agent.submit(item, csr_for(item))), wire.CSRAnswer)

    async def obtain(self, **wish: Any) -> str:
        """Ask for a certificate and do everything until it is there; return its id."""
        certificate_id = await self.ask(**wish)
        await self.work()
        return certificate_id

    async def work(self, rounds: int = 60) -> None:
        """Have orders worked off, and answers shown, until no order is open."""
        ctx = self.world.ctx
        for _ in range(rounds):
            await working.take_up(ctx)
            await self.show()
            if (
                not ctx.ordering.tasks
                and await self.world.value("SELECT count(*) FROM ca_orders WHERE status = 'open'") == 0
            ):
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(str(await self.world.rows("SELECT * FROM ca_orders")))

    async def offered(self) -> tuple[wire.ChallengeItem, ...]:
        query = {"boot": self.agent.boot, "wait": 0, "held": ""}
        return msgspec.convert(done(await self.agent.call("GET", "/work", params=query)), wire.Work).challenges

    async def first_offered(self) -> tuple[wire.ChallengeItem, ...]:
        with self.world.ctx.db.wakeups.subscribe(jobs.agent_topic(self.agent.id)) as waiter:
            while not (items := await self.offered()):
                await waiter.wait(5)
        return items

    async def tell(self, item: wire.ChallengeItem, **report: Any) -> Any:
        return await self.agent.call("POST", f"/challenges/{item.challenge_id}", json=report)

    async def show(self) -> None:
        for item in await self.offered():
            if item.over:
                self.pebble.answer("del-http01", token=item.token)
                done(await self.tell(item, state="gone"))
            else:
                self.pebble.answer("add-http01", token=item.token, content=item.key_authorization)
                done(await self.tell(item, state="shown", where="the test server"))

    async def versions(self, certificate_id: str) -> list[dict[str, Any]]:
        statement = (
            "SELECT id, der, serial, issuer_id FROM certificate_versions WHERE certificate_id = $1 ORDER BY created_at"
        )
        return await self.world.rows(statement, certificate_id)

    async def orders(self, certificate_id: str) -> list[dict[str, Any]]:
        found = await self.world.get("/api/v1/issuer-orders", certificate_id=certificate_id)
        return list(found["data"])
