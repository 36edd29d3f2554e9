"""What has to be done for a record, and how services with an API of HTTP are spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from connectors.issuers.acme.problems import printable
from connectors.issuers.acme.transport import Answer, Connection, connected
from core.errors import CertctlError, Forbidden, NotFound, Refused, TooManyRequests, Transient

TTL_S = 60
_OK = range(200, 300)
_STATUSES: dict[int, type[CertctlError]] = {401: Forbidden, 403: Forbidden, 404: NotFound}
_SERVER_ERRORS, _TOO_MANY = 500, 429


class TXTRecord(msgspec.Struct, frozen=True):
    """A TXT record, of which there may be several of one name. ``fqdn`` has no dot at the end.

    ``domain`` is the name to be certified and ``token`` the challenge's, for those who want to know.
    """

    fqdn: str
    value: str
    domain: str = ""
    token: str = ""


class Provider(Protocol):
    """Writes records. Both methods may be called again for the same record; others of that name are left alone."""

    async def present(self, record: TXTRecord) -> None:
        """Add a record; it need not be visible everywhere yet."""

    async def clean_up(self, record: TXTRecord) -> None:
        """Remove it; it may be gone already."""


class API:
    """A service's API: JSON or text over HTTPS."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name, self._connection = name, connection

    async def call(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send a request and return its answer, whatever its status."""
        async with connected(self._connection) as transport:
            return await transport.send(method, url, content=body, headers=headers)

    def check(self, answer: Answer, said: str, remedy: str, *, throttled: bool = False) -> None:
        """Raise what an answer's status tells; ``said`` is the service's own reason.

        ``throttled`` says that too much was asked, for services that have other statuses for that.
        """
        if answer.status in _OK:
            return
        detail = f"{self._name} answered {answer.status}: {printable(said) or 'no reason was given'}"
        if throttled or answer.status == _TOO_MANY:
            raise TooManyRequests(detail, retry_after_s=answer.retry_after_s)
        if answer.status >= _SERVER_ERRORS:
            raise Transient(detail, retry_after_s=answer.retry_after_s)
        raise _STATUSES.get(answer.status, Refused)(f"{detail}; {remedy}")


def json_of(answer: Answer) -> dict[str, Any]:
    """Return the object that was answered, empty for anything else."""
    try:
        found = msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def objects(found: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects of a list that was answered, empty for anything else."""
    listed = found.get(name)
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def parents(fqdn: str) -> list[str]:
    """Return the names that may be the zone of a name, the longest first."""
    labels = fqdn.split(".")
    return [".".join(labels[place:]) for place in range(len(labels) - 1)]
