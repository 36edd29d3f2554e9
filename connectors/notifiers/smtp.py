"""Messages as mail: to one mail server, over TLS from the beginning on port 465, else with STARTTLS (RFC 8314, 3207).

A server that offers no TLS is not told anything, unless TLS was switched off. The standard library's client blocks, so
it works in a thread, and every step has a deadline. The Message-ID is made of the message's id, so that a mail that is
sent twice is known to be one.
"""

from __future__ import annotations

import smtplib
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime

import anyio
import anyio.to_thread

from connectors.notifiers.base import DEADLINE_S, Message
from core.errors import Transient
from core.secret import Secret

IMPLICIT_TLS_PORT = 465
_STEP_S = 10.0


@dataclass(frozen=True)
class MailServer:
    """Where mail is handed in, and as whom."""

    host: str
    port: int
    username: str
    password: Secret[str] | None
    sender: str
    use_tls: bool


class Mail:
    """Mail through one server."""

    def __init__(self, server: MailServer, *, deadline_s: float = DEADLINE_S) -> None:
        self._server, self._deadline_s = server, deadline_s

    async def send(self, message: Message, recipient: str) -> None:
        """Hand one mail in."""
        where = f"{self._server.host}:{self._server.port}"
        try:
            mail = self._mail(message, recipient)
            with anyio.fail_after(self._deadline_s):
                await anyio.to_thread.run_sync(self._hand_in, mail, abandon_on_cancel=True)
        except TimeoutError as error:
            raise Transient(f"the mail server {where} did not answer in time") from error
        except smtplib.SMTPException as error:
            raise Transient(f"the mail server {where} did not take it: {_cause(error)}") from error
        except OSError as error:
            raise Transient(f"the mail server {where} cannot be reached: {error}") from error
        except ValueError as error:
            raise Transient(f"{recipient!r} is no address that mail can be sent to: {error}") from error

    def _mail(self, message: Message, recipient: str) -> EmailMessage:
        mail = EmailMessage()
        mail["From"], mail["To"] = self._server.sender, recipient
        mail["Subject"] = f"[certctl] {' '.join(message.subject.split())}"
        mail["Date"] = format_datetime(message.created_at)
        mail["Message-ID"] = f"<{message.id}@{self._server.sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(f"{message.message}\n\n{message.severity} · {message.type} · {message.id}\n")
        return mail

    def _hand_in(self, mail: EmailMessage) -> None:
        server, context = self._server, ssl.create_default_context()
        if server.use_tls and server.port == IMPLICIT_TLS_PORT:
            client: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=_STEP_S, context=context)
        else:
            client = smtplib.SMTP(server.host, server.port, timeout=_STEP_S)
        with client:
            if server.use_tls and server.port != IMPLICIT_TLS_PORT:
                client.starttls(context=context)
            if server.password is not None:
                client.login(server.username, server.password.reveal())
            client.send_message(mail)


def _cause(error: smtplib.SMTPException) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "; ".join(f"{code} {_text(words)}" for code, words in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_text(error.smtp_error)}"
    return str(error)


def _text(words: bytes | str) -> str:
    return words.decode(errors="replace") if isinstance(words, bytes) else words
