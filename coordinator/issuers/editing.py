"""An issuer as it is made, changed, given a new key, tried and removed.

Its configuration says how its keys are made; a change of that takes effect with the next one. A key that is given
comes in once and is sealed; no answer, no event and no stored configuration has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from connectors.issuers import making, registry
from connectors.issuers.acme.config import ACMEConfig
from connectors.issuers.base import Order
from connectors.issuers.local import LocalIssuer, examine
from connectors.issuers.local_config import LocalConfig
from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.issuers import scripts, secrets, service, store
from coordinator.ordering import accounts
from coordinator.web import etag
from coordinator.web.table import Call, Strict
from core import keys, marking
from core.certificates import new_serial
from core.crash import crash_point
from core.errors import CertctlError, Conflict, InvalidInput, NotFound, Refused
from core.keys import KeyAlgorithm
from core.names import parse_name
from core.secret import Secret

if TYPE_CHECKING:
    from coordinator.context import Context

_LONGEST_TRIAL_S = 20.0
_FIXED = ("certificate_chain", "parent_issuer_id")
_KEY_MARK = msgspec.Meta(description="Its private key, PEM, not encrypted.", extra_json_schema={"secret": True})


class IssuerBody(Strict):
    """An issuer; ``config`` is what its type asks for, see ``/api/v1/issuer-types``.

    A key is given once and shown as ``{"set": true}``. An issuer that is switched off signs nothing and goes on
    serving its CRLs.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    type: str = "local"
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    enabled: bool = True


class NewKey(Strict):
    """Nothing, for an issuer whose keys are made here; your authority's new chain and key for one that was given."""

    certificate_chain: Annotated[str, msgspec.Meta(max_length=100_000)] | None = None
    key: Annotated[str, _KEY_MARK] | None = None


class Check(msgspec.Struct, frozen=True):
    """One thing that was tried; ``problem`` is empty when it is in order."""

    what: Literal["enabled", "account", "stored key", "authority", "usage", "validity", "key", "chain", "signature"]
    problem: str = ""


class Tried(msgspec.Struct, frozen=True):
    """Whether an issuer could sign now; ``detail`` is the first cause why not."""

    ok: bool
    detail: str
    checks: list[Check]


def shown(row: Row) -> dict[str, Any]:
    """Return an issuer's configuration as it may be read."""
    return marking.shown(row["config"], dict.fromkeys(row["secret_paths"]))


async def create(call: Call[Any, Any], issuer_id: str, body: IssuerBody) -> None:
    """Add an issuer with its first key; raise ``InvalidInput``, ``Conflict`` for a name or an id that is taken."""
    kind, plain, given, config = _read(body)
    values = {"name": body.name, "type": kind, "config": plain, "enabled": body.enabled}
    parent = config.parent_issuer_id if isinstance(config, LocalConfig) else None
    await _store(call.tx, issuer_id, {**values, "parent_issuer_id": parent, "secret_paths": sorted(given)}, None)
    made = None
    if isinstance(config, LocalConfig):
        key = given.get("key")
        if "key" in given and key is None:
            raise InvalidInput.of("config.key", "is not stored here; enter it")
        made = await _made(call.ctx, call.tx, config, body.name, key)
    else:
        await _keep_acme(call.ctx, call.tx, issuer_id, config, given)
    signs = {"ski": made.ski} if made is not None else {}
    details = audit.Described({**values, "config": marking.shown(plain, given), **signs})
    await audit.record(call.tx, call.actor, "issuer.created", "issuer", issuer_id, details, call.request_id)
    if made is not None:
        await service.keep_key(call.ctx, call.tx, call.actor, issuer_id, made, call.request_id)
    crash_point("issuer.created")


async def _keep_acme(ctx: Context, tx: Transaction, issuer_id: str, config: ACMEConfig, given: secrets.Given) -> None:
    """Check what an ACME issuer's configuration refers to, and seal its secrets."""
    script = config.dns.script if config.dns is not None else None
    if script is not None:
        scripts.check(ctx, script)
    for place, fallback in enumerate(config.fallback_issuer_ids):
        row = await store.get(tx, fallback)
        if row is None or row["type"] != "acme" or fallback == issuer_id:
            raise InvalidInput.of(f"config.fallback_issuer_ids[{place}]", "is no other issuer of type acme")
    await secrets.keep(ctx, tx, issuer_id, given)


async def change(call: Call[Any, Any], issuer_id: str, body_of: Callable[[Row], IssuerBody]) -> None:
    """Replace an issuer by what ``body_of`` makes of its row; raise ``Refused`` for what only a new key can change."""
    async with call.ctx.db.transaction() as tx:
        before = await _locked(tx, issuer_id)
        etag.check(call, before)
        body = body_of(before)
        kind, plain, given, config = _read(body)
        _check_fixed(before, kind, plain, given)
        values = {"name": body.name, "type": kind, "config": plain, "enabled": body.enabled}
        kept = {"parent_issuer_id": before["parent_issuer_id"], "secret_paths": sorted(given)}
        await _store(tx, issuer_id, {**values, **kept}, before)
        if isinstance(config, ACMEConfig):
            await _keep_acme(call.ctx, tx, issuer_id, config, given)
        details = audit.Described({**values, "config": marking.shown(plain, given)})
        await audit.record(tx, call.actor, "issuer.updated", "issuer", issuer_id, details, call.request_id)
        crash_point("issuer.changed")
    crash_point("issuer.change_committed")


async def rotate(call: Call[NewKey, Any], issuer_id: str) -> None:
    """Give an issuer a new key; the one before goes on serving its CRL.

    Raises ``Refused`` for a key that cannot be changed like this, ``Conflict`` for the one that is in use.
    """
    row = await _locked(call.tx, issuer_id)
    if row["type"] != "local":
        detail = f"{issuer_id} signs elsewhere; to change the key of its account, POST to its accounts/roll-over"
        raise Refused(detail)
    if issuer_id == service.LOCAL and call.ctx.settings.ca_cert_path is not None:
        detail = f"the key of {issuer_id} comes from CERTCTL_CA_CERT_PATH; change the files and start again"
        raise Refused(detail)
    given, config = "certificate_chain" in row["config"], dict(row["config"])
    key = Secret(call.body.key) if call.body.key is not None else None
    if given != (key is not None) or given != (call.body.certificate_chain is not None):
        raise _wrong_key(given=given)
    if given:
        config["certificate_chain"] = call.body.certificate_chain
        await store.set_config(call.tx, issuer_id, config)
    wanted = marking.checked(LocalConfig, config, {"key": key} if key else {})
    made = await _made(call.ctx, call.tx, wanted, row["name"], key, field="")
    current = await store.key(call.tx, issuer_id)
    if current is not None and tuple(current["chain"]) == made.chain:
        detail = f"{issuer_id} has this key and certificate already"
        raise Conflict(detail)
    await service.keep_key(call.ctx, call.tx, call.actor, issuer_id, made, call.request_id)
    crash_point("issuer.key_added")


async def remove(call: Call[Any, Any], issuer_id: str) -> None:
    """Remove an issuer that nothing refers to; raise ``Conflict`` that says what does."""
    async with call.ctx.db.transaction() as tx:
        row = await _locked(tx, issuer_id)
        etag.check(call, row)
        if issuer_id == service.LOCAL:
            detail = f"{issuer_id} is ready-made and stays; switch it off instead"
            raise Conflict(detail)
        for words, count, some in await store.users(tx, issuer_id):
            if count:
                names = ", ".join(some) + (", …" if count > len(some) else "")
                detail = f"{issuer_id} is in use by {count} {words} ({names}); switch it off instead"
                raise Conflict(detail)
        try:
            async with tx.savepoint():
                await store.remove(tx, issuer_id)
        except driver.ForeignKeyViolation as error:
            detail = f"{issuer_id} is in use by {getattr(error, 'table_name', 'something')}; switch it off instead"
            raise Conflict(detail) from error
        details = {"name": row["name"]}
        await audit.record(tx, call.actor, "issuer.removed", "issuer", issuer_id, details, call.request_id)
        crash_point("issuer.removed")
    crash_point("issuer.removal_committed")


async def try_out(ctx: Context, issuer_id: str) -> Tried:
    """Look whether an issuer could sign now: let it sign something to be thrown away, or ask its authority."""
    async with ctx.db.connection() as conn:
        row = _found(await store.get(conn, issuer_id), issuer_id)
        checks = [Check("enabled", "" if row["enabled"] else "it is switched off; switch it on")]
        if row["type"] == "local":
            checks += await _signs(ctx, conn, issuer_id)
    if row["type"] != "local" and row["enabled"]:
        checks += await _answers(ctx, issuer_id)
    causes = [f"{check.what}: {check.problem}" for check in checks if check.problem]
    return Tried(not causes, causes[0] if causes else "", checks)


async def _signs(ctx: Context, conn: Connection, issuer_id: str) -> list[Check]:
    try:
        authority = await service.current(ctx, conn, issuer_id)
    except CertctlError as error:
        return [Check("stored key", error.detail)]
    return [Check("stored key"), *await asyncio.to_thread(_examined, ctx, authority)]


async def _answers(ctx: Context, issuer_id: str) -> list[Check]:
    """Ask for the directory, and for our account, which is registered by that if it was not."""
    try:
        async with asyncio.timeout(_LONGEST_TRIAL_S):
            await accounts.authority(ctx, issuer_id)
    except CertctlError as error:
        return [Check("account", error.detail)]
    except TimeoutError:
        return [Check("account", f"the authority did not answer within {_LONGEST_TRIAL_S:.0f} s")]
    return [Check("account")]


def _examined(ctx: Context, authority: LocalIssuer) -> list[Check]:
    now = ctx.clock.now().replace(microsecond=0)
    checks = [Check(finding.what, finding.problem) for finding in examine(authority, now)]
    return [*checks, Check("signature", _signature_problem(authority, now))]


def _signature_problem(authority: LocalIssuer, now: datetime) -> str:
    name = parse_name("throw-away.invalid")
    public_key = keys.generate(KeyAlgorithm.ECDSA_P256).public_key()
    order = Order(new_serial(), name.value, (name,), public_key, now, now + timedelta(minutes=1), ())
    try:
        leaf = authority.sign(order)
    except (ValueError, TypeError) as error:
        return f"nothing can be signed: {error}"
    return "" if authority.has_signed(leaf) else "what the key signs does not fit the certificate"


def _read(body: IssuerBody) -> tuple[str, dict[str, Any], dict[str, Secret[str] | None], LocalConfig | ACMEConfig]:
    config_type, kind = registry.config_type(body.type), registry.canonical(body.type)
    plain, given = marking.taken_apart(config_type, body.config)
    config = marking.checked(config_type, plain, given)
    assert isinstance(config, LocalConfig | ACMEConfig)  # noqa: S101 - there are these kinds
    return kind, plain, given, config


async def _made(
    ctx: Context, tx: Connection, config: LocalConfig, name: str, key: Secret[str] | None, *, field: str = "config."
) -> LocalIssuer:
    """Return a new key for an issuer with its certificate, made or given."""
    now = ctx.clock.now().replace(microsecond=0)
    if config.certificate_chain is not None and key is not None:
        return await asyncio.to_thread(making.take_over, config.certificate_chain, key, now, field)
    parent = None if config.parent_issuer_id is None else await _parent(ctx, tx, config.parent_issuer_id)
    return await asyncio.to_thread(making.make, config, config.common_name or name[:64], now, parent)


async def _parent(ctx: Context, tx: Connection, issuer_id: str) -> making.Parent:
    row = await store.get(tx, issuer_id)
    if row is None:
        raise InvalidInput.of("config.parent_issuer_id", f"there is no issuer {issuer_id}")
    if not row["enabled"]:
        detail = f"{issuer_id} is switched off and signs nothing; switch it on or choose another parent"
        raise Refused(detail)
    authority, base = await service.current(ctx, tx, issuer_id), ctx.settings.pki_url
    aia, cdp = (url(base, issuer_id, authority.ski) for url in (service.certificate_url, service.crl_url))
    return making.Parent(issuer_id, authority, aia, cdp)


def _check_fixed(before: Row, kind: str, plain: dict[str, Any], given: secrets.Given) -> None:
    if before["type"] != kind:
        raise Refused("type: stays what it is; make another issuer")
    if kind != "local":
        return
    for field in _FIXED:
        if before["config"].get(field) != plain.get(field):
            remedy = "POST its keys to use another one" if field == "certificate_chain" else "make another issuer"
            raise Refused(f"config.{field}: stays what it is; {remedy}")
    if given.get("key") is not None:
        raise Refused("config.key: is given once; POST its keys to use another one")


def _wrong_key(*, given: bool) -> InvalidInput:
    if given:
        return InvalidInput.of("key", "and certificate_chain are required: this issuer's keys come from you")
    return InvalidInput.of("key", "is made here for this issuer; send none, and no certificate_chain")


async def _store(tx: Transaction, issuer_id: str, values: dict[str, Any], before: Row | None) -> None:
    write = store.TABLE.insert if before is None else store.TABLE.replace
    try:
        async with tx.savepoint():
            await write(tx, issuer_id, values)
    except driver.UniqueViolation as error:
        taken = f"the id {issuer_id}" if "pkey" in str(getattr(error, "constraint_name", "")) else "this name"
        detail = f"another issuer has {taken} already; choose another"
        raise Conflict(detail) from error
    except driver.ForeignKeyViolation as error:
        parent = values["parent_issuer_id"]
        raise InvalidInput.of("config.parent_issuer_id", f"there is no issuer {parent}") from error


async def _locked(tx: Transaction, issuer_id: str) -> Row:
    return _found(await store.get(tx, issuer_id, lock=True), issuer_id)


def _found(row: Row | None, issuer_id: str) -> Row:
    if row is None:
        detail = f"there is no issuer {issuer_id}"
        raise NotFound(detail)
    return row
