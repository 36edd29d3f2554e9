"""What should be: accounts, authorizations, orders and certificates as RFC 8555 describes them, in memory.

Written from the RFC and the documentation, not from the code: no import of the coordinator's. A refusal is the name of
its error without the URN; "" is success.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PENDING, READY, VALID, INVALID, DEACTIVATED = "pending", "ready", "valid", "invalid", "deactivated"
CLIENTS_REASONS = frozenset({0, 1, 3, 4, 5, 9})
CONFLICT = "conflict"
"""What the library makes of an answer that names what is there already."""


@dataclass
class Directory:
    """A directory: whether its accounts are ``bound`` to others, and whether names are ``proved``."""

    id: str
    bound: bool
    proved: bool


@dataclass
class Binding:
    """A key of an external account."""

    id: str
    mac_key: str
    wildcards: bool
    used: bool = False
    ended: bool = False


@dataclass
class Authorization:
    """What an account may have certificates for. ``tried`` has the statuses of its challenges by their type."""

    url: str
    name: str
    wildcard: bool
    status: str
    tried: dict[str, str] = field(default_factory=dict)

    @property
    def offered(self) -> set[str]:
        """Return the types of challenge that the library knows among those that can prove the name (section 8)."""
        return {"dns-01"} if self.wildcard else {"http-01", "dns-01"}

    def answer(self, kind: str, *, prepared: bool) -> None:
        """Take a client's word; only the first one on what is pending counts."""
        if self.status == PENDING and kind not in self.tried:
            self.tried[kind] = self.status = VALID if prepared else INVALID

    def deactivate(self) -> str:
        """Give it up, if it is anything still (section 7.5.2)."""
        if self.status not in {PENDING, VALID}:
            return "malformed"
        self.status = DEACTIVATED
        return ""


@dataclass
class Certificate:
    """What was issued: its serial number as the inventory has it, and the names."""

    serial: str
    names: frozenset[str]
    owner: Account
    revoked: bool = False

    def revoke(self, by: Account | None, *, holds_key: bool, reason: int) -> str:
        """Revoke it, by an account or by whoever signs with a key (section 7.6)."""
        if by is not None and by.status != VALID:
            return "unauthorized"
        if reason not in CLIENTS_REASONS:
            return "badRevocationReason"
        allowed = holds_key if by is None else by is self.owner or self.names <= by.authorized
        if not allowed:
            return "unauthorized"
        if self.revoked:
            return "alreadyRevoked"
        self.revoked = True
        return ""


@dataclass
class Order:
    """An order; its status follows from its authorizations until it has a certificate (section 7.1.6)."""

    url: str
    names: tuple[str, ...]
    authorizations: list[Authorization]
    certificate: Certificate | None = None

    @property
    def status(self) -> str:
        """Return it."""
        if self.certificate is not None:
            return VALID
        found = {each.status for each in self.authorizations}
        if found - {PENDING, VALID}:
            return INVALID
        return READY if found == {VALID} else PENDING

    def finalize(self, asked: frozenset[str]) -> str:
        """Say what comes of a CSR for these names; the certificate is noted when it was seen (section 7.4)."""
        if self.status != READY:
            return "orderNotReady"
        return "" if asked == frozenset(self.names) else "badCSR"


@dataclass
class Account:
    """An account, by its ``uri``."""

    uri: str
    directory: Directory
    contact: tuple[str, ...]
    binding: Binding | None
    status: str = VALID
    orders: list[Order] = field(default_factory=list)
    authorizations: list[Authorization] = field(default_factory=list)

    @property
    def may(self) -> str:
        """Return the refusal of whatever it asks for."""
        return "" if self.status == VALID else "unauthorized"

    @property
    def authorized(self) -> frozenset[str]:
        """Return the names that it may have certificates for now."""
        valid = (each for each in self.authorizations if each.status == VALID)
        return frozenset(f"*.{each.name}" if each.wildcard else each.name for each in valid)

    def may_order(self, names: tuple[str, ...]) -> str:
        """Say whether an order of these names is taken."""
        if self.status != VALID:
            return "unauthorized"
        if self.binding is None:
            return ""
        held = not self.binding.wildcards and any(name.startswith("*.") for name in names)
        return "rejectedIdentifier" if self.binding.ended or held else ""

    def reusable(self, name: str) -> list[Authorization]:
        """Return the valid authorizations of a name, one of which every order of it takes."""
        wildcard, value = name.startswith("*."), name.removeprefix("*.")
        return [
            each for each in self.authorizations if (each.name, each.wildcard, each.status) == (value, wildcard, VALID)
        ]

    def authorization(self, url: str, name: str) -> Authorization:
        """Return the authorization that a new order, or nobody yet, has for a name; it is met under this URL."""
        old = self.reusable(name)
        if old:
            same = next((each for each in old if each.url == url), None)
            assert same is not None, f"{name}: none of the authorizations that are valid was taken"
            return same
        assert url not in {each.url for each in self.authorizations}, "another name's, or one that is over"
        status = PENDING if self.directory.proved else VALID
        new = Authorization(url, name.removeprefix("*."), name.startswith("*."), status)
        self.authorizations.append(new)
        return new


@dataclass
class Book:
    """The whole prediction."""

    accounts: list[Account] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)

    def may_register(self, directory: Directory, binding: Binding | None, *, contact_is_one: bool) -> str:
        """Say what comes of a new account of a key that has none (section 7.3)."""
        if not contact_is_one:
            return "invalidContact"
        if binding is None:
            return "externalAccountRequired" if directory.bound else ""
        return "unauthorized" if binding.used or binding.ended else ""

    def register(self, account: Account) -> None:
        """Note a new account."""
        if account.binding is not None:
            account.binding.used = True
        self.accounts.append(account)
