"""Orders at an ACME authority as the coordinator sees them: at Pebble, whose test server shows what agents are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from coordinator.bindings import service as bindings
from coordinator.issuers import secrets
from coordinator.jobs import service as jobs
from coordinator.ordering import challenges, renewing, revoking, store, working
from coordinator.ordering.queue import ORDERS_TOPIC
from core import wire
from core.acme import certificate_id_of
from tests.connectors.issuers.acme.pebble import EAB_KEY, EAB_KID, NEWER, Pebble
from tests.coordinator.world import FakeAgent, World, csr_for, done, open_world, problem, variables

pytestmark = pytest.mark.anyio
ISSUER, PROFILE, HOST = "iss-public", "prof-public", "www.example.test"
SECRET = EAB_KEY
LIVES = {"classic": 90 * 86400, "shortlived": 6 * 86400, "tlsserver": 45 * 86400}
"""What an authority with profiles offers: the seconds that its certificates live, by profile."""


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    authority = Pebble(tmp_path_factory.mktemp("pebble") / "it", program=NEWER if NEWER.exists() else None).start()
    try:
        yield authority
    finally:
        authority.stop()


@pytest.fixture
async def case(world: World, pebble: Pebble) -> AsyncIterator[Case]:
    case = Case(world, pebble, await world.agent())
    try:
        yield case
    finally:
        await world.ctx.ordering.stop()


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


async def test_a_certificate_is_issued_with_what_the_authority_says(case: Case) -> None:
    await case.add(case.issuer(email="admin@example.test"))
    certificate_id = await case.obtain()
    (version,) = await case.versions(certificate_id)
    leaf = x509.load_der_x509_certificate(version["der"])
    assert version["issuer_id"] == ISSUER
    assert int(version["serial"], 16) == leaf.serial_number
    (order,) = await case.orders(certificate_id)
    assert (order["status"], order["authority_status"], order["problem"]) == ("issued", "valid", "")
    (challenge,) = order["challenges"]
    assert (challenge["state"], challenge["shown_where"], challenge["agent_id"]) == (
        "gone",
        "the test server",
        case.agent.id,
    )
    status = (await case.world.get(f"/api/v1/certificates/{certificate_id}"))["status"]
    assert status["life"] == "valid"
    actions = [row["action"] for row in await case.world.rows("SELECT action FROM audit_events ORDER BY id")]
    assert actions[-1] == "certificate.issued"
    (account,) = (await case.world.get(f"/api/v1/issuers/{ISSUER}/accounts"))["data"]
    assert account["url"].startswith(f"https://localhost:{case.pebble.port}/")


@pytest.mark.skipif(
    not NEWER.exists(), reason="a Pebble with renewal information is built by make peers-acme where Go is"
)
async def test_the_authoritys_window_decides_when_and_the_next_order_names_what_it_replaces(case: Case) -> None:
    await case.add(case.issuer())
    certificate_id = await case.obtain()
    await renewing.ask(case.world.ctx)
    (window,) = await case.world.rows("SELECT window_start, window_end, renew_at FROM ca_renewals")
    due = await case.world.value("SELECT renew_at FROM holders WHERE certificate_id = $1", certificate_id)
    assert window["window_start"] <= due == window["renew_at"] <= window["window_end"]
    await case.world.post("/api/v1/renewal-policies", {"id": "rp-late", "name": "late", "days_before": 1})
    done(
        await case.world.call("PATCH", f"/api/v1/certificates/{certificate_id}", json={"renewal_policy_id": "rp-late"})
    )
    assert await case.world.value("SELECT renew_at FROM holders WHERE certificate_id = $1", certificate_id) == due
    (version,) = await case.versions(certificate_id)
    leaf = x509.load_der_x509_certificate(version["der"])
    pem = leaf.public_bytes(serialization.Encoding.PEM).decode()
    past = {"suggestedWindow": {"start": "2026-01-02T00:00:00Z", "end": "2026-01-03T00:00:00Z"}}
    case.pebble.set_renewal_info({"certificate": pem, "ariResponse": msgspec.json.encode(past).decode()})
    await case.world.execute("UPDATE ca_renewals SET check_at = now()")
    await renewing.ask(case.world.ctx)
    assert await bindings.renew_due(case.world.ctx) == 1
    await case.hand_in()
    await case.work()
    assert len(await case.versions(certificate_id)) == 2
    newest, first = await case.orders(certificate_id)
    assert (first["replaces"], newest["replaces"]) == ("", certificate_id_of(leaf))


async def test_a_window_of_a_version_that_was_replaced_is_forgotten(case: Case) -> None:
    """It would be due for ever, and the loop that asks would never rest."""
    await case.add(case.issuer())
    certificate_id = await case.obtain()
    await case.world.execute("UPDATE holders SET version_id = NULL WHERE certificate_id = $1", certificate_id)
    assert await renewing.ask(case.world.ctx) is None
    assert await case.world.value("SELECT count(*) FROM ca_renewals") == 0


async def test_no_more_orders_are_taken_than_are_worked_on_at_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "AT_ONCE", 1)
    await case.add(case.issuer())
    await case.ask()
    await case.ask(common_name="second.example.test")
    await working.take_up(case.world.ctx)
    assert await working.take_up(case.world.ctx) is None
    assert len(case.world.ctx.ordering.tasks) == 1
    with case.world.ctx.db.wakeups.subscribe(ORDERS_TOPIC) as waiter:
        for task in list(case.world.ctx.ordering.tasks.values()):
            task.cancel()
        assert await waiter.wait(5)


async def test_the_authority_is_told_of_a_revocation_until_it_knows(case: Case) -> None:
    await case.add(case.issuer())
    certificate_id = await case.obtain()
    (version,) = await case.versions(certificate_id)
    done(await case.world.call("PATCH", f"/api/v1/issuers/{ISSUER}", json={"enabled": False}))
    reason = {"reason": "cessationOfOperation"}
    await case.world.post(f"/api/v1/certificates/{certificate_id}/revoke", reason)
    await revoking.tell(case.world.ctx)
    (told,) = await case.world.rows("SELECT done_at, problem FROM ca_revocations")
    assert told["done_at"] is None
    assert "switched off" in told["problem"]
    done(await case.world.call("PATCH", f"/api/v1/issuers/{ISSUER}", json={"enabled": True}))
    await case.world.execute("UPDATE ca_revocations SET next_at = now()")
    await revoking.tell(case.world.ctx)
    assert case.pebble.manage(f"cert-status-by-serial/{version['serial']}").json()["Status"] == "Revoked"
    assert await case.world.value("SELECT done_at FROM ca_revocations") is not None


async def test_what_is_signed_here_is_told_to_nobody(case: Case) -> None:
    certificate_id, _ = await case.world.certificate(agent_id=case.agent.id, common_name=HOST)
    await case.agent.work()
    await case.world.post(f"/api/v1/certificates/{certificate_id}/revoke", {"reason": "superseded"})
    assert await case.world.value("SELECT count(*) FROM ca_revocations") == 0


async def test_another_issuer_is_asked_when_the_first_cannot(case: Case) -> None:
    spare = {**case.issuer(), "id": "iss-spare", "name": "spare"}
    await case.world.post("/api/v1/issuers", spare)
    away = case.issuer(directory_url="https://localhost:9/dir", fallback_issuer_ids=["iss-spare"])
    await case.add(away)
    certificate_id = await case.obtain()
    (version,) = await case.versions(certificate_id)
    assert version["issuer_id"] == "iss-spare"


async def test_an_authority_that_is_away_is_asked_again_and_people_see_why(case: Case) -> None:
    await case.add(case.issuer(directory_url="https://localhost:9/dir"))
    certificate_id = await case.ask()
    await working.take_up(case.world.ctx)
    await asyncio.gather(*case.world.ctx.ordering.tasks.values())
    (order,) = await case.orders(certificate_id)
    assert (order["status"], order["failures"], order["authority_status"]) == ("open", 1, "")
    assert "cannot be reached" in order["problem"]
    done(await case.world.call("PATCH", f"/api/v1/issuers/{ISSUER}", json={"config": case.issuer()["config"]}))
    await case.world.execute("UPDATE ca_orders SET next_at = now()")
    await case.work()
    assert len(await case.versions(certificate_id)) == 1


async def test_an_authority_whose_limits_are_used_up_is_left_alone(case: Case) -> None:
    await case.add(case.issuer())
    await case.obtain()
    async with case.world.ctx.db.transaction() as tx:
        await store.block(tx, ISSUER, timedelta(hours=3), "too many certificates (168h)")
    asked = case.pebble.asked("calling handler()")
    certificate_id = await case.ask(common_name="second.example.test")
    await working.take_up(case.world.ctx)
    await asyncio.gather(*case.world.ctx.ordering.tasks.values())
    (order,) = await case.orders(certificate_id)
    assert "are used up until" in order["problem"]
    wait = await case.world.value("SELECT next_at - now() FROM ca_orders WHERE id = $1", order["id"])
    assert timedelta(hours=2) < wait < timedelta(hours=4)
    assert case.pebble.asked("calling handler()") == asked
    (account,) = (await case.world.get(f"/api/v1/issuers/{ISSUER}/accounts"))["data"]
    assert account["blocked_reason"] == "too many certificates (168h)"


async def test_an_account_whose_key_cannot_be_changed_now_holds_nobody_up(case: Case) -> None:
    away = {**case.issuer(directory_url="https://localhost:9/dir"), "id": "iss-away", "name": "away"}
    await case.world.post("/api/v1/issuers", away)
    made = await case.world.post("/api/v1/issuers/iss-away/accounts/roll-over")
    assert [account["state"] for account in made["data"]] == ["next"]
    problem(await case.world.call("POST", "/api/v1/issuers/iss-away/accounts/roll-over"), 409)
    await case.add(case.issuer())
    certificate_id = await case.obtain()
    assert len(await case.versions(certificate_id)) == 1


async def test_what_an_agent_cannot_show_fails_the_attempt_with_its_words(case: Case) -> None:
    await case.add(case.issuer())
    certificate_id = await case.ask()
    await working.take_up(case.world.ctx)
    items = await case.first_offered()
    problem_text = ":80 cannot be opened: another program listens there"
    done(await case.tell(items[0], state="failed", problem=problem_text))
    await asyncio.gather(*case.world.ctx.ordering.tasks.values())
    (order,) = await case.orders(certificate_id)
    assert order["status"] == "failed"
    assert problem_text in order["problem"]
    holder = await case.world.rows("SELECT reason, failures FROM holders WHERE certificate_id = $1", certificate_id)
    assert (holder[0]["failures"], problem_text in holder[0]["reason"]) == (1, True)
    (retry,) = await case.world.rows(
        "SELECT trigger, attempt FROM jobs WHERE certificate_id = $1 AND state = 'AwaitingCSR'", certificate_id
    )
    assert (retry["trigger"], retry["attempt"]) == ("retry", 2)


async def test_a_wildcard_without_a_dns_provider_is_refused_with_the_remedy(case: Case) -> None:
    await case.add(case.issuer())
    certificate_id = await case.ask(common_name="*.example.test")
    await working.take_up(case.world.ctx)
    await asyncio.gather(*case.world.ctx.ordering.tasks.values())
    (order,) = await case.orders(certificate_id)
    assert (order["status"], "set up here is http-01" in order["problem"]) == ("failed", True)


async def test_a_record_that_could_not_be_removed_is_removed_later(
    database_url: str, tmp_path: Path, pebble: Pebble
) -> None:
    script, locked = tmp_path / "txt", tmp_path / "locked"
    script.write_text(
        f"""#!/bin/sh
test $1 = set-txt || test ! -e {locked} || {{ echo the zone is locked >&2; exit 1; }}
exec curl -sf -d "{{\\"host\\":\\"$CERTCTL_DNS_FQDN.\\",\\"value\\":\\"$CERTCTL_DNS_VALUE\\"}}" \\
  http://127.0.0.1:{pebble.control}/$1
"""
    )
    script.chmod(0o755)
    locked.touch()
    dns = {
        "script": {"present": [str(script), "set-txt"], "clean_up": [str(script), "clear-txt"]},
        "lookup": {"propagation_deadline_s": 0},
    }
    allowed = {"CERTCTL_ACME_DNS_SCRIPTS_DIR": str(tmp_path)}
    async with open_world(variables(database_url, tmp_path / "data", **allowed)) as world:
        case = Case(world, pebble, await world.agent())
        await case.add(case.issuer(challenge_type="dns-01", dns=dns))
        certificate_id = await case.obtain()
        (order,) = await case.orders(certificate_id)
        (challenge,) = order["challenges"]
        assert (order["status"], challenge["state"]) == ("issued", "shown")
        assert challenge["problem"].startswith(f"TXT _acme-challenge.{HOST} was not removed: ")
        assert "the zone is locked" in challenge["problem"]
        locked.unlink()
        for minutes, state in ((4, "shown"), (1, "gone")):
            earlier = "UPDATE ca_challenges SET offered_at = offered_at - $1 * interval '1 min' RETURNING id"
            await world.rows(earlier, minutes)
            await challenges.take_away_left(world.ctx)
            (order,) = await case.orders(certificate_id)
            assert order["challenges"][0]["state"] == state
        await world.ctx.ordering.stop()


@pytest.fixture
def offering(case: Case, tmp_path: Path) -> Iterator[None]:
    """Let the case be at an authority with certificates of several kinds."""
    kinds = {name: {"description": name, "validityPeriod": seconds} for name, seconds in LIVES.items()}
    case.pebble = Pebble(tmp_path / "offering", program=NEWER, profiles=kinds).start()
    try:
        yield
    finally:
        case.pebble.stop()


@pytest.mark.skipif(not NEWER.exists(), reason="a Pebble with profiles is built by make peers-acme where Go is")
@pytest.mark.usefixtures("offering")
@pytest.mark.parametrize("profile", LIVES)
async def test_a_certificate_is_of_the_profile_that_the_issuer_names(case: Case, profile: str) -> None:
    await case.add(case.issuer(profile=profile))
    (version,) = await case.versions(await case.obtain())
    leaf = x509.load_der_x509_certificate(version["der"])
    seconds = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()
    assert seconds + 1 == LIVES[profile]  # the last second counts (RFC 5280 section 4.1.2.5)
    renew_at = await case.world.value("SELECT renew_at FROM holders")
    assert leaf.not_valid_before_utc < renew_at < leaf.not_valid_after_utc


@pytest.mark.skipif(not NEWER.exists(), reason="a Pebble with profiles is built by make peers-acme where Go is")
@pytest.mark.usefixtures("offering")
async def test_a_profile_that_the_authority_has_not_is_named_with_those_it_has(case: Case) -> None:
    await case.add(case.issuer(profile="forever"))
    certificate_id = await case.ask()
    await case.work()
    (order,) = await case.orders(certificate_id)
    offered = "classic, shortlived, tlsserver"
    cause = f"the authority has no profile 'forever'; set config.profile to one that it has: {offered}"
    assert (order["status"], order["problem"], order["authority_status"]) == ("failed", cause, "")
    assert cause in (await case.world.get(f"/api/v1/certificates/{certificate_id}"))["status"]["reason"]
    assert case.pebble.asked("/order-plz") == 0
    mended = {"config": case.issuer(profile="classic")["config"]}
    done(await case.world.call("PATCH", f"/api/v1/issuers/{ISSUER}", json=mended))
    await case.world.post(f"/api/v1/certificates/{certificate_id}/renew")
    await case.hand_in()
    await case.work()
    assert len(await case.versions(certificate_id)) == 1


async def test_an_approval_comes_before_the_order(case: Case) -> None:
    await case.add(case.issuer(), requires_approval=True)
    certificate_id = await case.ask()
    assert await case.orders(certificate_id) == []
    (approval,) = (await case.world.get("/api/v1/approvals", certificate_id=certificate_id))["data"]
    path = f"/api/v1/approvals/{approval['id']}/approve"
    done(await case.world.call("POST", path, "approver", json={"note": "yes"}))
    await case.work()
    assert len(await case.versions(certificate_id)) == 1


async def test_an_order_belongs_to_whoever_took_it_last(case: Case, database_url: str, tmp_path: Path) -> None:
    """Two coordinators: what the first one stores after the second has taken the order is refused."""
    await case.add(case.issuer())
    await case.ask()
    ctx = case.world.ctx
    async with ctx.db.transaction() as tx:
        (first,) = await store.claim(tx, 10, "one", timedelta())
        (second,) = await store.claim(tx, 10, "two", timedelta(minutes=1))
        assert await store.claim(tx, 10, "three", timedelta(minutes=1)) == []
        assert not await store.save_state(tx, first["id"], first["epoch"], ISSUER, {"status": "pending"}, "")
        assert not await store.end(tx, first["id"], first["epoch"], "issued", "")
        assert await store.save_state(tx, second["id"], second["epoch"], ISSUER, {"status": "pending"}, "")


async def test_the_order_of_a_job_that_has_ended_is_given_up(case: Case) -> None:
    await case.add(case.issuer())
    certificate_id = await case.ask()
    assert (await case.world.call("DELETE", f"/api/v1/certificates/{certificate_id}")).is_success
    await case.work()
    assert [order["status"] for order in await case.orders(certificate_id)] == ["abandoned"]
    assert await case.versions(certificate_id) == []


async def test_an_agent_is_told_again_and_its_successor_as_well(case: Case) -> None:
    await case.add(case.issuer())
    await case.ask()
    await working.take_up(case.world.ctx)
    items = await case.first_offered()
    await case.world.ctx.ordering.stop()  # so that the order does not go on meanwhile
    assert await case.offered() == ()
    case.agent.boot = "anotherone"
    assert [item.challenge_id for item in await case.offered()] == [items[0].challenge_id]
    done(await case.tell(items[0], state="shown"))
    assert await case.offered() == ()
    case.agent.boot = "thethirdone"
    assert [item.challenge_id for item in await case.offered()] == [items[0].challenge_id]


async def test_secrets_are_kept_sealed_and_stay_when_they_are_not_sent(case: Case) -> None:
    body = case.issuer(eab_kid="kid-1", eab_hmac=SECRET)
    await case.add(body)
    shown = await case.world.get(f"/api/v1/issuers/{ISSUER}")
    assert shown["config"]["eab_hmac"] == {"set": True}
    done(await case.world.call("PATCH", f"/api/v1/issuers/{ISSUER}", json={"name": "renamed"}))
    async with case.world.ctx.db.connection() as conn:
        config, _ = await secrets.acme(case.world.ctx, conn, ISSUER)
    assert config.eab_hmac is not None
    assert config.eab_hmac.reveal() == SECRET
    everything = str(await case.world.rows("SELECT * FROM issuers")) + str(
        await case.world.rows("SELECT * FROM audit_events")
    )
    assert SECRET not in everything


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an address that is no https": ({"directory_url": "http://ca.test/dir"}, "config.directory_url"),
    "a key without its id": ({"eab_hmac": SECRET}, "config.eab_kid"),
    "a DNS challenge without a provider": ({"challenge_type": "dns-01"}, "config.dns"),
    "two providers": (
        {"dns": {"script": {"present": ["/x"]}, "cloudflare": {"api_token": "t"}}},
        "config.dns",
    ),
    "a zone without its resource group": (
        {
            "dns": {
                "azure_dns": {
                    "tenant_id": "t",
                    "client_id": "c",
                    "client_secret": "s",
                    "subscription_id": "s",
                    "zone": "example.com",
                }
            }
        },
        "config.dns.azure_dns",
    ),
    "a program outside the folder": ({"dns": {"script": {"present": ["/bin/sh"]}}}, "config.dns.script.present[0]"),
    "a way out of the folder": (
        {"dns": {"script": {"present": ["/etc/certctl/acme-dns/../../../bin/sh"]}}},
        "config.dns.script.present[0]",
    ),
    "a fallback that is not there": ({"fallback_issuer_ids": ["iss-none"]}, "config.fallback_issuer_ids[0]"),
    "a fallback of another type": ({"fallback_issuer_ids": ["iss-local"]}, "config.fallback_issuer_ids[0]"),
    "a secret that is not stored": ({"eab_kid": "k", "eab_hmac": {"set": True}}, "config.eab_hmac"),
    "a field of another type": ({"path_length": 0}, "config.path_length"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_wrong_configuration_is_refused_by_its_field(case: Case, what: str) -> None:
    config, field = WRONG[what]
    problem(await case.world.call("POST", "/api/v1/issuers", json=case.issuer(**config)), 400, field)
    assert await case.world.value("SELECT count(*) FROM issuers WHERE id = $1", ISSUER) == 0


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Pebble]:
    """An authority that registers only customers of its own."""
    keys: dict[str, Any] = {"externalAccountBindingRequired": True, "externalAccountMACKeys": {EAB_KID: EAB_KEY}}
    authority = Pebble(tmp_path / "strict", **keys).start()
    try:
        yield authority
    finally:
        authority.stop()


async def test_the_environment_makes_an_issuer_once(database_url: str, tmp_path: Path, strict: Pebble) -> None:
    bundle = tmp_path / "root.pem"
    bundle.write_text(strict.root)
    named = {
        "CERTCTL_ACME_DIRECTORY_URL": strict.directory_url,
        "CERTCTL_ACME_EMAIL": "admin@example.test",
        "CERTCTL_ACME_EAB_KID": EAB_KID,
        "CERTCTL_ACME_EAB_HMAC": EAB_KEY,
        "CERTCTL_ACME_CA_BUNDLE": str(bundle),
    }
    urls = []
    for name in ("ours", "still ours"):
        async with open_world(variables(database_url, tmp_path / "data", **named)) as world:
            assert (await world.post("/api/v1/issuers/iss-acme/test"))["ok"] is True
            made = await world.get("/api/v1/issuers/iss-acme")
            assert made["name"] in {"ACME, of the environment", "ours"}
            assert (made["config"]["email"], made["config"]["eab_hmac"]) == ("admin@example.test", {"set": True})
            done(await world.call("PATCH", "/api/v1/issuers/iss-acme", json={"name": name}))
            urls.append((await world.get("/api/v1/issuers/iss-acme/accounts"))["data"][0]["url"])
            await world.ctx.ordering.stop()
    assert urls[0] == urls[1] != ""
    assert await asyncio.to_thread(strict.asked, "There are now") == 1
