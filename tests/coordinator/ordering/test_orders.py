"""Orders at an ACME authority as the coordinator sees them, and what becomes of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from coordinator.bindings import service as bindings
from coordinator.ordering import challenges, renewing, revoking, store, working
from coordinator.ordering.queue import ORDERS_TOPIC
from core.acme import certificate_id_of
from tests.connectors.issuers.acme.pebble import NEWER, Pebble
from tests.coordinator.ordering.case import HOST, ISSUER, Case
from tests.coordinator.world import done, open_world, problem, variables

pytestmark = pytest.mark.anyio


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
        without = {"challenge_type": "http-01", "dns": None}
        for config in (without, {"challenge_type": "dns-01", "dns": dns}):
            changed = {"config": case.issuer(**config)["config"]}
            done(await world.call("PATCH", f"/api/v1/issuers/{ISSUER}", json=changed))
            if config is without:  # nobody can remove it then, and nothing breaks
                await challenges.take_away(world.ctx, order["id"], ISSUER)
        for minutes, state in ((4, "shown"), (1, "gone")):
            earlier = "UPDATE ca_challenges SET offered_at = offered_at - $1 * interval '1 min' RETURNING id"
            await world.rows(earlier, minutes)
            await challenges.take_away_left(world.ctx)
            (order,) = await case.orders(certificate_id)
            assert order["challenges"][0]["state"] == state
        await world.ctx.ordering.stop()


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
