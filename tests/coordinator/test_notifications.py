"""Notifications: queued with what they tell, told once, tried until they arrive, and visible when they do not."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from connectors.notifiers.base import Message
from coordinator.agents import health
from coordinator.bindings import service as bindings
from coordinator.loops.service import LOOPS
from coordinator.notifications import alerts, channels, delivery, store
from coordinator.notifications import service as notifications
from coordinator.notifications.service import Event
from core.errors import Transient
from tests.connectors.notifiers.servers import Mailbox, Posted, https, smtp
from tests.coordinator.world import World, bearer, done, open_world, problem, variables

pytestmark = pytest.mark.anyio


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    (tmp_path / "root.pem").write_bytes(made.cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    return made


@pytest.fixture
def receiver(authority: trustme.CA) -> Iterator[Posted]:
    with https(authority) as kept:
        yield kept


@pytest.fixture
def mailbox(authority: trustme.CA) -> Iterator[Mailbox]:
    with smtp(authority) as kept:
        yield kept


@pytest.fixture
async def told(database_url: str, tmp_path: Path, receiver: Posted, mailbox: Mailbox) -> Any:
    """A coordinator with every channel."""
    more = {
        "CERTCTL_WEBHOOK_URL": receiver.url,
        "CERTCTL_SMTP_HOST": "127.0.0.1",
        "CERTCTL_SMTP_PORT": str(mailbox.port),
        "CERTCTL_SMTP_FROM_ADDRESS": "certctl@example.com",
        "CERTCTL_NOTIFICATION_RECIPIENTS": "pki@example.com",
    }
    async with open_world(variables(database_url, tmp_path / "data", **more)) as world:
        yield world


async def tell(world: World, key: str = "k", **changes: Any) -> None:
    certificate_id = await world.value("SELECT id FROM certificates LIMIT 1")
    if certificate_id is None:
        certificate_id, _ = await world.certificate()
    event = Event(key, "certificate_failing", "error", "it fails", "and why", certificate_id)
    async with world.ctx.db.transaction() as tx:
        await notifications.tell(tx, event._replace(**changes))


async def deliver(world: World) -> None:
    for channel in channels.CHANNELS:
        await delivery.deliver(world.ctx, channel)


async def listed(world: World, **query: Any) -> list[dict[str, Any]]:
    return list((await world.get("/api/v1/notifications", **query))["data"])


async def due_again(world: World) -> None:
    await world.execute("UPDATE notifications SET next_retry_at = now() WHERE next_retry_at IS NOT NULL")


async def test_what_is_told_arrives_on_every_channel_once(told: World, receiver: Posted, mailbox: Mailbox) -> None:
    for _ in range(2):
        await tell(told)
    assert {(row["channel"], row["status"]) for row in await listed(told)} == {
        ("log", "pending"), ("webhook", "pending"), ("email", "pending"),
    }  # fmt: skip
    for _ in range(2):
        await deliver(told)
    rows = await listed(told)
    assert [(row["status"], row["retry_count"], row["next_retry_at"]) for row in rows] == [("sent", 1, None)] * 3
    assert (len(receiver.bodies), len(mailbox.mails)) == (1, 1)
    assert mailbox.mails[0][2] == "pki@example.com"


async def test_what_is_rolled_back_is_not_told(told: World) -> None:
    async def told_and_undone() -> None:
        async with told.ctx.db.transaction() as tx:
            await notifications.tell(tx, Event("k", "certificate_failing", "error", "s", "m", certificate_id))
            raise ZeroDivisionError

    certificate_id, _ = await told.certificate()
    with pytest.raises(ZeroDivisionError):
        await told_and_undone()
    assert await listed(told) == []


async def test_a_first_failure_is_tried_again_and_enough_of_them_are_dead(told: World, receiver: Posted) -> None:
    """The reference stores no time for the second attempt, so that it never comes."""
    await tell(told, channels=("webhook",))
    pauses, row = [], dict[str, Any]()
    for attempt in range(1, delivery.ATTEMPTS + 1):
        receiver.statuses.append(503)
        await deliver(told)
        (row,) = await listed(told)
        assert (row["retry_count"], row["last_error"]) == (attempt, "the receiver answered 503")
        pauses.append(await told.value("SELECT next_retry_at - now() FROM notifications"))
        await due_again(told)
    assert (row["status"], pauses[-1]) == ("dead", None)
    assert timedelta(seconds=55) < pauses[0] <= timedelta(minutes=1)
    waits = pauses[:-1]
    assert all(after > before or after > timedelta(minutes=59) for before, after in itertools.pairwise(waits))
    await deliver(told)
    assert len(receiver.bodies) == delivery.ATTEMPTS
    again = await told.post(f"/api/v1/notifications/{row['id']}/requeue")
    assert (again["status"], again["retry_count"]) == ("pending", 0)
    await deliver(told)
    (row,) = await listed(told)
    assert (row["status"], row["last_error"]) == ("sent", "")
    problem(await told.call("POST", f"/api/v1/notifications/{row['id']}/requeue"), 409)


async def test_a_receiver_that_hangs_keeps_nobody_elses_message(
    told: World, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hangs:
        async def send(self, message: Message, recipient: str) -> None:
            raise AssertionError(f"{message.id} to {recipient} is not for this loop")

    await tell(told)
    usual = channels.notifier
    patched = lambda settings, channel: Hangs() if channel == "webhook" else usual(settings, channel)  # noqa: E731
    monkeypatch.setattr(channels, "notifier", patched)
    await delivery.deliver(told.ctx, "email")
    assert len(mailbox.mails) == 1
    names = {channels.topic(channel) for channel in channels.CHANNELS}
    assert names <= {loop.name for loop in LOOPS}


async def test_messages_of_one_channel_do_not_wait_for_each_other(told: World, receiver: Posted) -> None:
    receiver.delay_s = 0.3
    for number in range(10):
        await tell(told, key=f"k{number}", channels=("webhook",))
    started = time.monotonic()
    await delivery.deliver(told.ctx, "webhook")
    assert time.monotonic() - started < 2.5
    assert len(receiver.bodies) == 10


async def test_a_message_whose_sending_was_not_stored_is_sent_again_under_its_id(
    told: World, receiver: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tell(told, channels=("webhook",))

    async def dies(*_: object) -> None:
        raise Transient("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "sent", dies)
        with pytest.raises(ExceptionGroup):
            await delivery.deliver(told.ctx, "webhook")
    await delivery.deliver(told.ctx, "webhook")
    assert len(receiver.bodies) == 1, "it is leased"
    await due_again(told)
    await delivery.deliver(told.ctx, "webhook")
    assert len({headers["Idempotency-Key"] for headers in receiver.headers}) == 1
    assert len(receiver.bodies) == 2
    assert (await listed(told))[0]["status"] == "sent"


async def test_two_coordinators_send_it_once(told: World, receiver: Posted, tmp_path: Path, database_url: str) -> None:
    for number in range(30):
        await tell(told, key=f"k{number}", channels=("webhook",))
    more = {"CERTCTL_WEBHOOK_URL": receiver.url}
    async with open_world(variables(database_url, tmp_path / "other", **more)) as other:
        await asyncio.gather(*(delivery.deliver(world.ctx, "webhook") for world in (told, other, told, other)))
    assert len(receiver.bodies) == 30


async def test_a_channel_that_is_not_set_up_is_a_visible_error(world: World) -> None:
    """The reference records what went to a missing channel as sent."""
    await tell(world, channels=("email", "webhook", "slack", "log"))
    errors = {row["channel"]: (row["status"], row["last_error"]) for row in await listed(world)}
    assert errors["log"] == ("pending", "")
    assert errors["email"][0] == errors["webhook"][0] == errors["slack"][0] == "dead"
    assert "CERTCTL_SMTP_HOST" in errors["email"][1]
    assert "CERTCTL_WEBHOOK_URL" in errors["webhook"][1]
    assert "there is no channel 'slack'" in errors["slack"][1]
    for row in await listed(world, status="dead"):
        problem(await world.call("POST", f"/api/v1/notifications/{row['id']}/requeue"), 409)
    counts = await world.get("/api/v1/notifications/counts")
    assert counts == {"unread": 4, "pending": 1, "failed": 0, "dead": 3}


async def test_mail_goes_to_the_owner_and_without_one_says_so(
    told: World, mailbox: Mailbox, tmp_path: Path, database_url: str, receiver: Posted
) -> None:
    body = {"name": "Ada", "team_id": "default", "email": "ada@example.com"}
    owner_id = (await told.post("/api/v1/owners", body))["id"]
    certificate_id, _ = await told.certificate(owner_id=owner_id)
    await tell(told, certificate_id=certificate_id, channels=("email",))
    await tell(told, key="all", certificate_id=certificate_id, channels=("email",), to_all=True)
    await deliver(told)
    assert sorted(mail[2] for mail in mailbox.mails) == ["ada@example.com", "ada@example.com", "pki@example.com"]
    more = {
        "CERTCTL_SMTP_HOST": "127.0.0.1",
        "CERTCTL_SMTP_PORT": str(mailbox.port),
        "CERTCTL_SMTP_FROM_ADDRESS": "certctl@example.com",
    }
    async with open_world(variables(database_url, tmp_path / "other", **more)) as other:
        await told.execute("UPDATE owners SET email = ''")
        await tell(other, key="nobody", channels=("email",))
        (row,) = await listed(other, status="dead")
        assert "CERTCTL_NOTIFICATION_RECIPIENTS" in row["last_error"]
        problem(await other.call("POST", f"/api/v1/notifications/{row['id']}/requeue"), 409)
        await told.execute("UPDATE owners SET email = 'eve@example.com'")
        assert (await other.post(f"/api/v1/notifications/{row['id']}/requeue"))["recipient"] == "eve@example.com"


async def test_read_is_noted_once_and_filters_find_what_is_asked_for(told: World) -> None:
    await tell(told)
    first, *_ = await listed(told)
    for _ in range(2):
        assert (await told.post(f"/api/v1/notifications/{first['id']}/read"))["read_at"]
    read = "SELECT count(*) FROM audit_events WHERE action = 'notification.read'"
    assert await told.value(read) == 1
    assert {row["id"] for row in await listed(told, unread=False)} == {first["id"]}
    assert len(await listed(told, unread=True)) == 2
    assert len(await listed(told, status="pending", type="certificate_failing", channel="log")) == 1
    assert await listed(told, certificate_id="mc-none") == []
    for role, status in (("viewer", 403), ("auditor", 403), ("operator", 200)):
        response = await told.call("POST", f"/api/v1/notifications/{first['id']}/read", role)
        assert response.status_code == status
    problem(await told.call("GET", "/api/v1/notifications", params={"status": "lost"}), 400, "status")
    problem(await told.call("POST", "/api/v1/notifications/ntf-none/requeue"), 404)


async def test_notifications_of_another_teams_certificates_are_not_there(told: World) -> None:
    await told.post("/api/v1/teams", {"id": "team-x", "name": "x"})
    await tell(told)
    body = {"name": "foreign", "role": "admin", "teams": ["team-x"]}
    headers = bearer((await told.post("/api/v1/api-keys", body))["key"])
    row, *_ = await listed(told)
    assert done(await told.http.get("/api/v1/notifications", headers=headers))["data"] == []
    assert done(await told.http.get("/api/v1/notifications/counts", headers=headers))["unread"] == 0
    for method, what in (("GET", ""), ("POST", "/read"), ("POST", "/requeue")):
        url = f"/api/v1/notifications/{row['id']}{what}"
        problem(await told.http.request(method, url, headers=headers), 404)


async def test_each_threshold_is_told_once_for_each_version(world: World) -> None:
    agent = await world.agent()
    certificate_id, _ = await world.certificate(agent_id=agent.id, lifetime_s=20 * 86400)
    await agent.work()
    await alerts.watch(world.ctx)
    assert await listed(world) == []
    for days, expected in ((5.9, []), (0.2, [14]), (3, [14]), (4, [14, 7]), (10, [14, 7, 0]), (30, [14, 7, 0])):
        world.clock.advance(timedelta(days=days))
        for _ in range(2):
            await alerts.watch(world.ctx)
        keys = await world.rows("SELECT key, severity FROM notifications ORDER BY created_at, severity")
        assert [int(str(row["key"]).rpartition(":")[2]) for row in keys] == expected
    severities = {row["severity"] for row in await listed(world, type="certificate_expiring")}
    assert severities == {"warning", "error", "critical"}
    rows = await listed(world, certificate_id=certificate_id)
    assert {row["subject"] for row in rows} == {
        "www.example.com ends in 14 days", "www.example.com ends in 7 days", "www.example.com has ended",
    }  # fmt: skip


async def test_thresholds_that_were_crossed_while_nobody_looked_are_told_late(world: World) -> None:
    agent = await world.agent()
    await world.certificate(agent_id=agent.id, lifetime_s=20 * 86400)
    await agent.work()
    await alerts.watch(world.ctx)
    world.clock.advance(timedelta(days=14))
    await alerts.watch(world.ctx)
    assert await world.value("SELECT count(*) FROM notifications") == 2


async def test_many_ends_of_one_moment_are_told_in_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_BATCH", 2)
    agent = await world.agent()
    for number in range(5):
        await world.certificate(agent_id=agent.id, lifetime_s=20 * 86400, name=f"c{number}")
        await agent.work()
        world.clock.advance(timedelta(minutes=number // 3))
    await alerts.watch(world.ctx)
    world.clock.advance(timedelta(days=7))
    while await alerts.watch(world.ctx):
        pass
    assert await world.value("SELECT count(DISTINCT certificate_id) FROM notifications") == 5


async def test_policies_say_who_is_told_and_renewed_or_archived_certificates_are_quiet(world: World) -> None:
    policy = {
        "alert_thresholds_days": [9],
        "alert_channels": {"warning": ["webhook"]},
        "alert_severity_map": {"9": "warning"},
    }
    done(await world.call("PATCH", "/api/v1/renewal-policies/rp-default", json=policy))
    agent = await world.agent()
    kept, _ = await world.certificate(agent_id=agent.id, lifetime_s=20 * 86400)
    renewed, _ = await world.certificate(agent_id=agent.id, lifetime_s=20 * 86400)
    archived, _ = await world.certificate(agent_id=agent.id, lifetime_s=20 * 86400)
    await agent.work()
    await alerts.watch(world.ctx)
    world.clock.advance(timedelta(days=5))
    await world.post(f"/api/v1/certificates/{renewed}/renew")
    await agent.work()
    done_delete = await world.call("DELETE", f"/api/v1/certificates/{archived}")
    assert done_delete.status_code == 204
    world.clock.advance(timedelta(days=7))
    await alerts.watch(world.ctx)
    (row,) = await listed(world)
    assert (row["certificate_id"], row["channel"], row["severity"]) == (kept, "webhook", "warning")


async def test_a_certificate_that_starts_to_fail_is_told_once(world: World) -> None:
    """The reference leaves a certificate that fails out of the scan that tells."""
    done(await world.call("PATCH", "/api/v1/renewal-policies/rp-default", json={"max_retries": 1}))
    agent = await world.agent()
    await world.certificate(agent_id=agent.id)
    for _ in range(4):
        await agent.fail(await agent.item(), "no entropy")
        await world.execute("UPDATE jobs SET not_before = now()")
    (row,) = await listed(world, type="certificate_failing")
    assert "no entropy" in row["message"]
    await bindings.reconcile(world.ctx)


async def test_approvals_are_told_when_they_are_asked_for_and_refused(told: World) -> None:
    done(await told.call("PATCH", "/api/v1/profiles/prof-default", json={"requires_approval": True}))
    agent = await told.agent()
    await told.certificate(agent_id=agent.id)
    assert (await agent.issue(await agent.item())).state == "pending"
    rows = await listed(told, type="approval_requested")
    assert {row["channel"] for row in rows} == {"log", "webhook", "email"}
    (approval,) = (await told.get("/api/v1/approvals"))["data"]
    assert approval["id"] in rows[0]["message"]
    await told.post(f"/api/v1/approvals/{approval['id']}/reject", {"note": "no"}, key="approver")
    assert "no; renew" in (await listed(told, type="approval_rejected"))[0]["message"]


async def test_a_violation_is_told_when_it_opens(world: World) -> None:
    rule = {"name": "Ours", "type": "allowed_domains", "config": {"patterns": ["ours.test"]}, "severity": "warning"}
    await world.post("/api/v1/policies", rule)
    certificate_id, _ = await world.certificate()
    done(await world.call("PATCH", f"/api/v1/certificates/{certificate_id}", json={"tags": {"a": "b"}}))
    (row,) = await listed(world, type="policy_violation")
    assert (row["certificate_id"], row["severity"]) == (certificate_id, "warning")
    assert "Ours" in row["subject"]


async def test_agents_that_go_silent_at_once_are_one_message(world: World) -> None:
    agents = [await world.agent(f"web-{number}") for number in range(3)]
    world.ctx.polls.hearing_since -= 3600
    await world.execute("UPDATE agents SET last_seen_at = now() - interval '10 minutes'")
    for _ in range(2):
        await health.check(world.ctx)
    (row,) = await listed(world, type="agent_offline")
    assert (row["subject"], row["certificate_id"]) == ("3 agents are silent", None)
    assert {agent.name for agent in agents} == set(row["message"].split(", "))
    await world.execute("UPDATE agents SET last_seen_at = now() WHERE name = 'web-1'")
    await health.check(world.ctx)
    (row,) = await listed(world, type="agent_online")
    assert row["subject"] == "web-1 is heard again"
