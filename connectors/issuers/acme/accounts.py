"""Accounts (RFC 8555 section 7.3): found or registered, changed, given another key, closed.

An account is its key and its address. Both are the caller's to keep: the key as PKCS#8 in a ``Secret``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from connectors.issuers.acme import zerossl
from connectors.issuers.acme.client import Directory, Session
from connectors.issuers.acme.jose import AccountKey, bind
from connectors.issuers.acme.problems import AccountUnknown, ExternalAccountRequired
from connectors.issuers.acme.transport import Answer, Connection
from connectors.issuers.acme.zerossl import CREDENTIALS_URL, ExternalAccount
from core.errors import CertctlError, Forbidden, Misconfigured, Transient


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What an account is registered with. ``email`` may be empty; without ``terms_agreed`` there may be no account."""

    email: str = ""
    terms_agreed: bool = False
    external_account: ExternalAccount | None = None
    zerossl_url: str = CREDENTIALS_URL
    zerossl_connection: Connection = Connection()

    @property
    def contacts(self) -> list[str]:
        """Return the contacts as addresses."""
        return [f"mailto:{self.email}"] if self.email else []


class _Account(msgspec.Struct):
    status: str = "valid"
    contact: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Account:
    """An account that may be used, by its address ``url``."""

    session: Session
    key: AccountKey
    url: str

    def __repr__(self) -> str:
        return f"Account({self.url!r})"

    async def post(self, url: str, payload: object, *, what: str, accept: str = "application/json") -> Answer:
        """Send a request in the account's name; ``payload`` None reads."""
        return await self.session.post(url, payload, self.key, what=what, kid=self.url, accept=accept)

    async def contacts(self) -> tuple[str, ...]:
        """Return the account's contacts, which an authority may keep to itself."""
        answer = await self.post(self.url, None, what="reading the account")
        return answer.read(_Account, "reading the account").contact

    async def set_email(self, email: str) -> None:
        """Let the authority write to another address, or to none (RFC 8555 section 7.3.2)."""
        changed = {"contact": Registration(email=email).contacts}
        await self.post(self.url, changed, what="changing the account's contact")

    async def roll_over(self, new: AccountKey) -> Account:
        """Give the account another key (RFC 8555 section 7.3.5); return it with that.

        Keep both keys until this returns. After a failure call it again with the same two: when the authority has taken
        the new key already, that is found.
        """
        what = "changing the account's key"
        try:
            url = self.session.place((await self.session.directory()).key_change, what)
            change = {"account": self.url, "oldKey": self.key.jwk}
            await self.post(url, new.sign_inner(change, url=url), what=what)
        except CertctlError:
            if not await self._is_known_by(new):
                raise
        return Account(self.session, new, self.url)

    async def _is_known_by(self, key: AccountKey) -> bool:
        try:
            found = await find(self.session, key)
        except CertctlError:
            return False
        return found is not None and found.url == self.url

    async def deactivate(self) -> None:
        """Close the account for good (RFC 8555 section 7.3.6); its certificates live on."""
        await self.post(self.url, {"status": "deactivated"}, what="closing the account")


async def find(session: Session, key: AccountKey) -> Account | None:
    """Return the account of a key, None where the authority knows none (RFC 8555 section 7.3.1).

    Raises ``Forbidden`` for one that was closed.
    """
    url = (await session.directory()).new_account
    try:
        answer = await session.post(url, {"onlyReturnExisting": True}, key, what="looking for the account")
    except AccountUnknown:
        return None
    return _account(session, key, answer)


async def find_or_register(session: Session, key: AccountKey, registration: Registration) -> Account:
    """Return the account of a key, registered now where there is none; safe to be called again at any time."""
    found = await find(session, key)
    if found is not None:
        return found
    what = "registering the account"
    directory = await session.directory()
    request: dict[str, Any] = {"contact": registration.contacts} if registration.contacts else {}
    if directory.meta.terms_of_service:
        if not registration.terms_agreed:
            raise Misconfigured(f"the authority asks to agree to {directory.meta.terms_of_service}; read it and agree")
        request["termsOfServiceAgreed"] = True
    outside = await _external_account(session, directory, registration)
    if outside is not None:
        request["externalAccountBinding"] = bind(
            key, kid=outside.kid, mac_key=outside.hmac_key, url=directory.new_account, algorithm=outside.algorithm
        )
    return _account(session, key, await session.post(directory.new_account, request, key, what=what))


async def _external_account(
    session: Session, directory: Directory, registration: Registration
) -> ExternalAccount | None:
    if registration.external_account is not None:
        return registration.external_account
    if zerossl.is_zerossl(session.directory_url):
        connection = registration.zerossl_connection
        return await zerossl.external_account(registration.email, url=registration.zerossl_url, connection=connection)
    if directory.meta.external_account_required:
        raise ExternalAccountRequired(
            f"{session.directory_url} registers only customers of its own; set eab_kid and eab_hmac to what they get"
        )
    return None


def _account(session: Session, key: AccountKey, answer: Answer) -> Account:
    status = answer.read(_Account, "reading the account").status
    if status != "valid":
        raise Forbidden(f"the account {answer.location} is {status}; use another account key to have a new one")
    if not answer.location:
        raise Transient("the authority did not say where the account is")
    return Account(session, key, answer.location)
