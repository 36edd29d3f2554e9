"""An order from its names to its certificate (RFC 8555 section 7.4), as a machine that may stop after any step.

    pending ──authorizations, accept──► ready ──finalize──► processing ──► valid ──certificate──► chain
       └────────────────────────────────┴──────────────────────┴────────► invalid: the next attempt is a new order

``Order.state`` is all there is to keep. ``save`` is called with it after each change, before the next step; ``resume``
goes on from it. What the authority has done meanwhile counts, not what was kept: an answer that was lost is found again
by looking. Only an order whose own answer was lost is not found: it stays behind, nobody answers it, it expires.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from connectors import together
from connectors.issuers.acme import certificates
from connectors.issuers.acme.accounts import Account
from connectors.issuers.acme.certificates import Issued
from connectors.issuers.acme.challenges import Authorization, AuthorizationDocument, Challenge, identifier
from connectors.issuers.acme.client import Meta
from connectors.issuers.acme.polling import until
from connectors.issuers.acme.problems import AlreadyReplaced, Problem, failure_of, printable
from connectors.issuers.acme.state import INVALID, PENDING, PROCESSING, READY, VALID, OrderDocument, OrderState
from connectors.issuers.acme.transport import Answer
from core.acme import encode
from core.csr import read_csr
from core.errors import CertctlError, Conflict, FieldError, InvalidInput, Misconfigured, NotFound, Refused, Transient
from core.names import Name

READY_DEADLINE_S = 300.0
ISSUED_DEADLINE_S = 300.0
Save = Callable[[OrderState], Awaitable[None]]
_TAKEN = (PROCESSING, VALID)


async def _keep_nothing(state: OrderState) -> None:
    del state


class Order:
    """One order. Its methods may be called again after they failed."""

    def __init__(self, account: Account, state: OrderState, save: Save = _keep_nothing) -> None:
        self._account, self._save = account, save
        self.state = state

    async def refresh(self) -> float:
        """Look how far it is; return the seconds that the authority wants to be left alone.

        Raises what ended it when it is over; ``state.is_over`` then says that the next attempt is a new order.
        """
        what = "looking at the order"
        try:
            answer = await self._account.post(self.state.order_url, None, what=what)
        except NotFound as error:
            await self._note(msgspec.structs.replace(self.state, status=INVALID))
            raise NotFound("the authority does not have the order any more; make a new one") from error
        await self._read(answer, what)
        return answer.retry_after_s

    async def authorizations(self) -> list[Authorization]:
        """Return what has to be shown; of the challenges of each one is to be answered and accepted."""
        return await together.for_each(self.state.authorization_urls, self._authorization)

    async def accept(self, challenge: Challenge) -> None:
        """Let the authority look for the answer (RFC 8555 section 7.5.1); does nothing when it has begun already."""
        if challenge.status != PENDING:
            return
        try:
            await self._account.post(challenge.url, {}, what=f"{challenge.name}: accepting {challenge.type}")
        except CertctlError:
            now = await self._authorization(challenge.authorization_url)
            if any(each.url == challenge.url and each.status == PENDING for each in now.challenges):
                raise

    async def wait_until_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Wait until all names are proved; raise why when the authority does not believe one."""
        await self._wait_for((READY, *_TAKEN), "waiting for the authority to check the names", deadline_s)

    async def finalize(self, csr: bytes) -> None:
        """Hand the request in (DER), once: one that was taken already, also unseen, is not handed in again.

        Raises ``InvalidInput`` for one with other names than the order's, ``Conflict`` when another one was taken.
        """
        facts, _ = read_csr(csr)
        if facts.names != frozenset(self.state.names):
            raise InvalidInput.of("csr", "does not have exactly the names of the order; make it again with those")
        digest = hashlib.sha256(csr).hexdigest()
        if self.state.csr_sha256 or self.state.status == PENDING:
            await self.refresh()
        if self.state.status in _TAKEN:
            if self.state.csr_sha256 not in {"", digest}:
                raise Conflict("the order was finalized with another request; go on with that, or make a new order")
            return
        await self._note(msgspec.structs.replace(self.state, csr_sha256=digest))
        await self._hand_in(csr)

    async def certificate(
        self, csr: bytes, *, preferred_root: str = "", deadline_s: float = ISSUED_DEADLINE_S
    ) -> Issued:
        """Wait for the certificate and return its chain, preferably one that ends below ``preferred_root``.

        Raises ``Refused`` when it is not for the request's key and the order's names.
        """
        facts, _ = read_csr(csr)
        if not (self.state.status == VALID and self.state.certificate_url):
            await self._wait_for((VALID,), "waiting for the authority to issue", deadline_s)
        issued = await certificates.download(self._account, self.state.certificate_url, preferred_root)
        certificates.check(issued, spki_sha256=facts.spki_sha256, names=self.state.names)
        return issued

    async def _hand_in(self, csr: bytes) -> None:
        what = "finalizing the order"
        try:
            answer = await self._account.post(self.state.finalize_url, {"csr": encode(csr)}, what=what)
        except CertctlError as error:
            await self._look_after(error)
            return
        await self._read(answer, what)

    async def _look_after(self, error: CertctlError) -> None:
        """Raise the error of a request, unless it was taken all the same."""
        try:
            await self.refresh()
        except Transient:
            raise error from None
        if self.state.status not in _TAKEN:
            raise error

    async def _wait_for(self, wanted: Sequence[str], what: str, deadline_s: float) -> None:
        async def look() -> tuple[CertctlError | bool | None, float]:
            try:
                wait = await self.refresh()
            except Transient as error:
                if self.state.is_over:  # it may pass with a new order, and waiting for this one does not help
                    return error, 0.0
                raise
            return self.state.status in wanted or None, wait

        if self.state.status not in wanted:
            end = await until(look, what=what, deadline_s=deadline_s, timer=self._account.session.timer)
            if isinstance(end, CertctlError):
                raise end

    async def _read(self, answer: Answer, what: str) -> None:
        document = answer.read(OrderDocument, what)
        await self._note(document.seen(self.state))
        if document.status == INVALID:
            raise await self._failure(document.error)

    async def _note(self, state: OrderState) -> None:
        if state != self.state:
            self.state = state
            await self._save(state)

    async def _authorization(self, url: str) -> Authorization:
        what = "reading an authorization"
        answer = await self._account.post(url, None, what=what)
        document = answer.read(AuthorizationDocument, what)
        return document.read(url, account_url=self._account.url, thumbprint=self._account.key.thumbprint)

    async def _failure(self, problem: Problem | None) -> CertctlError:
        """Return why it is over, by what its names say, which is more than the order knows."""
        try:
            failures = [failure for each in await self.authorizations() if (failure := _failure_of(each)) is not None]
        except CertctlError:
            failures = []
        if not failures:
            return failure_of(problem or Problem(), "the order failed")
        if len(failures) == 1:
            return failures[0][1]
        errors = tuple(FieldError(name, error.detail) for name, error in failures)
        kind = Transient if all(isinstance(error, Transient) for _, error in failures) else Refused
        return kind("; ".join(error.detail for _, error in failures), errors=errors)


async def new_order(
    account: Account,
    names: Sequence[Name],
    *,
    profile: str = "",
    replaces: str = "",
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    save: Save = _keep_nothing,
) -> Order:
    """Order a certificate; ``replaces`` is the id of the one it comes after (``core.acme.certificate_id_of``).

    An authority without renewal information, or for which that one has a successor already, is not told about it.
    """
    directory = await account.session.directory()
    request: dict[str, Any] = {"identifiers": [identifier(name) for name in names]}
    if profile:
        _check_profile(profile, directory.meta)
        request["profile"] = profile
    for key, moment in (("notBefore", not_before), ("notAfter", not_after)):
        if moment is not None:
            request[key] = moment.replace(microsecond=0)
    replaces = replaces if directory.renewal_info else ""
    try:
        answer = await _place(account, directory.new_order, request | ({"replaces": replaces} if replaces else {}))
    except AlreadyReplaced:
        # An order whose answer was lost does that; the certificate has to be renewed in any case.
        replaces = ""
        answer = await _place(account, directory.new_order, request)
    document = answer.read(OrderDocument, "ordering")
    state = OrderState(
        directory_url=account.session.directory_url,
        account_url=account.url,
        order_url=answer.location,
        names=tuple(names),
        status=document.status,
        finalize_url=document.finalize,
        profile=profile,
        replaces=replaces,
    )
    state = document.seen(state)
    await save(state)
    return Order(account, state, save)


async def resume(account: Account, state: OrderState, save: Save = _keep_nothing) -> Order:
    """Take an order up again and look how far it is; raises what ended it when it is over."""
    if state.account_url != account.url:
        raise Conflict(f"the order belongs to the account {state.account_url}; go on with that")
    order = Order(account, state, save)
    if state.is_over:
        raise Conflict("the order is over; make a new one")
    await order.refresh()
    return order


async def _place(account: Account, url: str, request: dict[str, Any]) -> Answer:
    answer = await account.post(url, request, what="ordering")
    if not answer.location:
        raise Transient("the authority did not say where the order is")
    return answer


def _check_profile(profile: str, meta: Meta) -> None:
    if profile not in meta.profiles:
        known = printable(", ".join(sorted(meta.profiles)))
        remedy = (
            f"set config.profile to one that it has: {known}" if known else "it has none: leave config.profile empty"
        )
        raise Misconfigured(f"the authority has no profile {profile!r}; {remedy}")


def _failure_of(authorization: Authorization) -> tuple[str, CertctlError] | None:
    name = f"*.{authorization.name}" if authorization.wildcard else str(authorization.name)
    for challenge in authorization.challenges:
        if challenge.problem is not None and authorization.status == INVALID:
            return name, failure_of(challenge.problem, f"{name} by {challenge.type}")
    if authorization.status in {PENDING, VALID}:
        return None
    return name, Refused(f"{name}: the authorization is {authorization.status}")
