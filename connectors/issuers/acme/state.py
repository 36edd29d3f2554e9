"""What is kept of an order, so that it can be taken up again at any time; and how an order comes over HTTP."""

from __future__ import annotations

from datetime import datetime

import msgspec

from connectors.issuers.acme.problems import Problem
from core.errors import InvalidInput
from core.names import Name

PENDING, READY, PROCESSING, VALID, INVALID = "pending", "ready", "processing", "valid", "invalid"
"""The states of an order (RFC 8555 section 7.1.6)."""


class OrderState(msgspec.Struct, frozen=True, kw_only=True):
    """An order as it was last seen, without a secret in it.

    ``csr_sha256`` names the request that was, or was about to be, handed in. ``replaces`` is what the authority has
    taken of it: empty when it did not want to know.
    """

    directory_url: str
    account_url: str
    order_url: str
    names: tuple[Name, ...]
    status: str
    finalize_url: str
    authorization_urls: tuple[str, ...] = ()
    certificate_url: str = ""
    expires: datetime | None = None
    profile: str = ""
    replaces: str = ""
    csr_sha256: str = ""

    @property
    def is_over(self) -> bool:
        """Say whether nothing comes of it any more: the next attempt is a new order."""
        return self.status == INVALID

    def dump(self) -> bytes:
        """Return it as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def load(cls, data: bytes) -> OrderState:
        """Read what ``dump`` has written."""
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise InvalidInput.of("order", f"is not a kept order: {error}") from error


class OrderDocument(msgspec.Struct):
    """An order as it comes (RFC 8555 section 7.1.3)."""

    status: str
    finalize: str
    authorizations: tuple[str, ...]
    certificate: str = ""
    expires: datetime | None = None
    error: Problem | None = None

    def seen(self, state: OrderState) -> OrderState:
        """Return the state with what this says."""
        return msgspec.structs.replace(
            state,
            status=self.status,
            finalize_url=self.finalize,
            authorization_urls=self.authorizations,
            certificate_url=self.certificate,
            expires=self.expires,
        )
