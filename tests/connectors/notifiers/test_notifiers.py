"""Every way of telling people, against real servers, under both event loops."""

from __future__ import annotations

import email
import email.policy
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme

from connectors.notifiers import smtp as smtp_module
from connectors.notifiers.base import Message
from connectors.notifiers.log import Log
from connectors.notifiers.smtp import Mail, MailServer
from connectors.notifiers.webhook import Webhook
from core.errors import Transient
from core.secret import Secret
from tests.connectors.notifiers.servers import Mailbox, https, smtp

pytestmark = pytest.mark.anyio
MESSAGE = Message(
    "ntf-1", "certificate_expiring", "error", "shop\r\nends in 7 days", "Certificate shop …", "mc-shop",
    datetime(2026, 3, 1, 12, tzinfo=UTC),
)  # fmt: skip
SECRET = Secret("hook-" + "s" * 20)


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """An authority that this process trusts."""
    made = trustme.CA()
    (tmp_path / "root.pem").write_bytes(made.cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    return made


def server_at(box: Mailbox, **changes: Any) -> MailServer:
    fields: dict[str, Any] = {"username": "", "password": None, "sender": "certctl@example.com", "use_tls": True}
    return MailServer("127.0.0.1", box.port, **{**fields, **changes})


async def test_the_log_has_it_as_loud_as_it_is_severe() -> None:
    with structlog.testing.capture_logs() as lines:
        await Log().send(MESSAGE, "")
    (line,) = lines
    assert (line["event"], line["log_level"], line["notification_id"]) == ("notification", "error", "ntf-1")


async def test_a_webhook_is_signed_and_carries_its_id(authority: trustme.CA) -> None:
    with https(authority) as receiver:
        for _ in range(2):
            await Webhook(receiver.url, SECRET).send(MESSAGE, "")
    body, headers = receiver.bodies[0], receiver.headers[0]
    assert json.loads(body)["id"] == headers["Idempotency-Key"] == "ntf-1"
    digest = hmac.new(SECRET.reveal().encode(), body, hashlib.sha256).hexdigest()
    assert headers["Certctl-Signature"] == f"sha256={digest}"
    assert receiver.bodies[0] == receiver.bodies[1]


@pytest.mark.parametrize("status", [302, 400, 500])
async def test_a_webhook_that_is_not_taken_is_an_error_and_leads_nowhere_else(
    authority: trustme.CA, status: int
) -> None:
    with https(authority) as receiver:
        receiver.statuses.append(status)
        with pytest.raises(Transient, match=str(status)):
            await Webhook(receiver.url, None).send(MESSAGE, "")
    assert len(receiver.bodies) == 1


async def test_a_receiver_that_hangs_or_is_not_trusted_or_away_costs_its_deadline(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    with https(authority) as receiver:
        receiver.delay_s = 1.0
        started = time.monotonic()
        with pytest.raises(Transient, match="did not answer"):
            await Webhook(receiver.url, None, deadline_s=0.2).send(MESSAGE, "")
        assert time.monotonic() - started < 0.9
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(Transient, match="cannot be reached"):
            await Webhook(receiver.url, None).send(MESSAGE, "")
    with pytest.raises(Transient, match="cannot be reached"):
        await Webhook("https://127.0.0.1:1/", None).send(MESSAGE, "")


@pytest.mark.parametrize("implicit", [True, False])
async def test_mail_goes_over_tls_as_the_port_says(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, *, implicit: bool
) -> None:
    """The reference speaks implicit TLS to port 587, where servers want STARTTLS."""
    with smtp(authority, implicit=implicit) as box:
        if implicit:
            monkeypatch.setattr(smtp_module, "IMPLICIT_TLS_PORT", box.port)
        server = server_at(box, username="certctl", password=Secret("pass word"))
        await Mail(server).send(MESSAGE, "ada@example.com")
    ((secure, user, recipient, raw),) = box.mails
    assert (secure, user, recipient) == (True, ":certctl:pass word", "ada@example.com")
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    assert mail["Subject"] == "[certctl] shop ends in 7 days"
    assert (mail["To"], mail["Message-ID"]) == ("ada@example.com", "<ntf-1@example.com>")
    assert "Certificate shop …" in mail.get_content()


async def test_no_mail_goes_in_clear_unless_that_was_wanted(authority: trustme.CA) -> None:
    with smtp(authority) as box:
        box.offers_starttls = False
        with pytest.raises(Transient, match="STARTTLS"):
            await Mail(server_at(box)).send(MESSAGE, "ada@example.com")
        assert box.mails == []
        await Mail(server_at(box, use_tls=False)).send(MESSAGE, "ada@example.com")
    assert [mail[0] for mail in box.mails] == [False]


async def test_mail_that_is_refused_says_why(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    with smtp(authority) as box:
        box.refuses = "no such user"
        with pytest.raises(Transient, match="550 no such user"):
            await Mail(server_at(box)).send(MESSAGE, "nobody@example.com")
        with pytest.raises(Transient, match="no address"):
            await Mail(server_at(box)).send(MESSAGE, "a@example.com\r\nBcc: b@example.com")
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(Transient, match="certificate verify failed"):
            await Mail(server_at(box)).send(MESSAGE, "ada@example.com")
    with pytest.raises(Transient, match="cannot be reached"):
        await Mail(server_at(Mailbox(port=1))).send(MESSAGE, "ada@example.com")
    assert box.mails == []
