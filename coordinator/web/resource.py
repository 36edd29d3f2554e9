"""Things that people make and change, all handled alike: list, make, get, replace, merge, remove.

A room says what its thing is made of – table, body, view, rules – and gets its routes. PUT replaces the whole; PATCH
merges (RFC 7396) and is then the same as a PUT of the result. ``If-Match`` guards both and DELETE. What is still in use
is not removed, and the answer says by what.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType

from coordinator.audit import service as audit
from coordinator.database import driver
from coordinator.database.connection import Connection, Transaction
from coordinator.database.driver import Record as Row
from coordinator.database.listing import Listing, Scope
from coordinator.database.table import Table
from coordinator.web import etag
from coordinator.web.paging import Page, PageQuery, Shape, plain, read_page
from coordinator.web.problems import decode_error
from coordinator.web.table import Call, NoBody, NoQuery, Permission, Route, Strict
from core.errors import Conflict, Forbidden, InvalidInput, NotFound, PreconditionFailed, Refused
from core.ids import check_chosen, chosen_pattern, new_id

B = TypeVar("B", bound=Strict)
V = TypeVar("V", bound=msgspec.Struct)
Values = dict[str, Any]


@dataclass(frozen=True)
class Use:
    """Where a thing may be in use: rows of ``table`` that name it in ``column``; ``words`` are their plural.

    ``many``: the column holds an array. Only rows count for which ``alive`` holds.
    """

    table: str
    column: str
    words: str
    many: bool = False
    alive: str = "true"

    @property
    def refers(self) -> str:
        """Return the condition under which a row of ``table`` uses the thing ``$1``."""
        operand = "@> ARRAY[$1]::text[]" if self.many else "= $1"
        return f"{self.column} {operand} AND {self.alive}"


async def take_as_it_is(_conn: Connection, body: Any, _row: Row | None) -> Values:
    """Return a body's fields as the values of columns of the same names."""
    return {name: msgspec.to_builtins(getattr(body, name)) for name in body.__struct_fields__}


async def nothing_follows(_tx: Transaction, _row: Row, _before: Row | None) -> None:
    """Do nothing: a change of the row is all that there is to do."""


@dataclass(frozen=True)
class Resource(Generic[B, V]):
    """One kind of thing. ``body`` is what callers set, ``view`` what they read.

    ``values`` checks a body (with the row it replaces, if any) and returns the columns' values; it raises
    ``InvalidInput`` or ``Refused``. ``follows`` does, in the same transaction, what a new or changed row brings about;
    it is given the row and the one before. ``references`` says, by name of a foreign key's constraint, which field is
    wrong when it does not hold. ``kept`` are ids of ready-made rows, which stay.
    """

    kind: str
    path: str
    id_prefix: str
    table: Table
    listing: Listing
    body: type[B]
    view: type[V]
    write: Permission
    query: type[PageQuery] = PageQuery
    read: Permission = Permission.READ
    values: Callable[[Connection, B, Row | None], Awaitable[Values]] = take_as_it_is
    follows: Callable[[Transaction, Row, Row | None], Awaitable[None]] = nothing_follows
    shape: Shape[V] | None = None
    uses: tuple[Use, ...] = ()
    references: Mapping[str, str] | None = None
    kept: frozenset[str] = frozenset()
    unique: str = "name"

    @property
    def parameter(self) -> str:
        """Return the name of the path parameter."""
        return f"{self.kind}_id"

    async def one(self, conn: Connection, row: Row) -> V:
        """Return a row as callers read it."""
        (view,) = await (self.shape or plain(self.view))(conn, [row])
        return view

    async def locked(self, tx: Transaction, row_id: str, scope: Scope) -> Row:
        """Return a row, locked; raise ``NotFound``."""
        return self.found(await self.table.get(tx, row_id, lock=True), row_id, scope)

    def found(self, row: Row | None, row_id: str, scope: Scope) -> Row:
        """Return the row; raise ``NotFound`` when there is none, or none within the caller's scope."""
        if row is None or not self.listing.holds(row, scope):
            detail = f"there is no {self.words} {row_id}"
            raise NotFound(detail)
        return row

    def within(self, row: Row, scope: Scope) -> Row:
        """Return a row as it was just stored; raise ``Forbidden`` when that took it out of the caller's scope."""
        if not self.listing.holds(row, scope):
            detail = f"this {self.words} would lie outside of what your key may touch; auth/check tells its scope"
            raise Forbidden(detail)
        return row

    @property
    def words(self) -> str:
        """Return what people call one."""
        return self.kind.replace("_", " ")

    @property
    def plural(self) -> str:
        """Return what people call many."""
        return f"{self.words[:-1]}ies" if self.words.endswith("y") else f"{self.words}s"

    async def store(self, tx: Transaction, row_id: str, body: B, before: Row | None) -> Row:
        """Insert or replace a row and do what follows; raise what its constraints mean."""
        row = await self._write(tx, row_id, body, before)
        await self.follows(tx, row, before)
        return row

    async def _write(self, tx: Transaction, row_id: str, body: B, before: Row | None) -> Row:
        values = await self.values(tx, body, before)
        write = self.table.insert if before is None else self.table.replace
        try:
            async with tx.savepoint():
                return await write(tx, row_id, values)
        except driver.UniqueViolation as error:
            what = f"the id {row_id}" if "pkey" in str(getattr(error, "constraint_name", "")) else f"this {self.unique}"
            detail = f"another {self.words} has {what} already; choose another"
            raise Conflict(detail) from error
        except driver.ForeignKeyViolation as error:
            constraint = str(getattr(error, "constraint_name", ""))
            for part, field in (self.references or {}).items():
                if part in constraint:
                    raise InvalidInput.of(field, f"there is no {getattr(body, field)}") from error
            raise

    async def check_unused(self, tx: Transaction, row_id: str) -> None:
        """Raise ``Conflict`` that says what still needs the row."""
        if row_id in self.kept:
            detail = f"{row_id} is ready-made and stays; what uses it by default would have nothing"
            raise Conflict(detail)
        for use in self.uses:
            count, some = await self.table.count_users(tx, use.table, use.refers, row_id)
            if count:
                names = ", ".join(some) + (", …" if count > len(some) else "")
                detail = f"{row_id} is in use by {count} {use.words} ({names}); give them another {self.words} first"
                raise Conflict(detail)


def routes_of(resource: Resource[Any, Any]) -> list[Route]:
    """Return the routes of a resource."""
    words, many, view = resource.words, resource.plural, resource.view
    article = "an" if words[0] in "aeiou" else "a"
    new = body_with_id(resource.body, f"Create{view.__name__}", resource.id_prefix)
    one = f"{resource.path}/{{{resource.parameter}}}"
    changes = (NotFound, PreconditionFailed, Conflict, Refused)
    table = [
        Route("GET", resource.path, _list(resource), resource.read, f"List {many}", Page[view],  # type: ignore[valid-type]
              query=resource.query, listing=resource.listing),
        Route("POST", resource.path, _create(resource), resource.write, f"Add {article} {words}", view,
              request=new, status=201, errors=(Conflict, Refused)),
        Route("GET", one, _get(resource), resource.read, f"Get {article} {words}", view, errors=(NotFound,)),
        Route("PUT", one, _replace(resource), resource.write, f"Replace {article} {words}", view,
              request=resource.body, errors=changes),
        Route("PATCH", one, _merge(resource), resource.write, f"Change parts of {article} {words}", view,
              request=patch_of(resource.body), errors=changes),
        Route("DELETE", one, _remove(resource), resource.write, f"Remove {article} {words}", None, status=204,
              errors=(NotFound, PreconditionFailed, Conflict)),
    ]  # fmt: skip
    for route in table:
        route.handler.__module__ = f"coordinator.{resource.table.name}.routes"
    return table


def _list(resource: Resource[Any, Any]) -> Any:
    async def list_all(call: Call[NoBody, Any]) -> Any:
        """List them; filters, sorts and fields are in the query."""
        return await read_page(call, resource.listing, resource.view, resource.shape)

    return list_all


def _get(resource: Resource[Any, Any]) -> Any:
    async def get(call: Call[NoBody, NoQuery]) -> Any:
        """Return one; its ETag is its revision."""
        row_id = call.path[resource.parameter]
        async with call.ctx.db.connection() as conn:
            return await resource.one(
                conn, resource.found(await resource.table.get(conn, row_id), row_id, call.actor.scope)
            )

    return get


def _create(resource: Resource[Any, Any]) -> Any:
    async def create(call: Call[Any, NoQuery]) -> Any:
        """Add one; what is left out takes its default."""
        chosen = call.body.id
        row_id = new_id(resource.id_prefix) if chosen is None else check_chosen(resource.id_prefix, chosen)
        fields = {name: getattr(call.body, name) for name in resource.body.__struct_fields__}
        body = resource.body(**fields)
        row = resource.within(await resource.store(call.tx, row_id, body, None), call.actor.scope)
        await _record(call, call.tx, resource, "created", row_id, body)
        return await resource.one(call.tx, row)

    return create


def _replace(resource: Resource[Any, Any]) -> Any:
    async def replace(call: Call[Any, NoQuery]) -> Any:
        """Replace the whole; what is left out takes its default again."""
        return await _change(call, resource, lambda _row: call.body)

    return replace


def _merge(resource: Resource[Any, Any]) -> Any:
    async def merge(call: Call[Any, NoQuery]) -> Any:
        """Change the named fields (RFC 7396): null brings back a default, objects are merged."""
        return await _change(call, resource, lambda row: merged(resource.body, row, call.body))

    return merge


def _remove(resource: Resource[Any, Any]) -> Any:
    async def remove(call: Call[NoBody, NoQuery]) -> None:
        """Remove one that nothing uses."""
        row_id = call.path[resource.parameter]
        async with call.ctx.db.transaction() as tx:
            row = await resource.locked(tx, row_id, call.actor.scope)
            etag.check(call, row)
            await resource.check_unused(tx, row_id)
            removed = await resource.one(tx, row)
            await resource.table.remove(tx, row_id)
            await _record(call, tx, resource, "removed", row_id, removed)

    return remove


async def _change(call: Call[Any, Any], resource: Resource[B, V], body_of: Callable[[Row], B]) -> V:
    row_id = call.path[resource.parameter]
    async with call.ctx.db.transaction() as tx:
        before = await resource.locked(tx, row_id, call.actor.scope)
        etag.check(call, before)
        body = body_of(before)
        row = resource.within(await resource.store(tx, row_id, body, before), call.actor.scope)
        await _record(call, tx, resource, "updated", row_id, body)
        return await resource.one(tx, row)


async def _record(
    call: Call[Any, Any], tx: Transaction, resource: Resource[Any, Any], what: str, row_id: str, told: msgspec.Struct
) -> None:
    details = audit.described(told)
    await audit.record(tx, call.actor, f"{resource.kind}.{what}", resource.kind, row_id, details, call.request_id)


def merged(body: type[B], row: Row | Mapping[str, Any], patch: msgspec.Struct) -> B:
    """Return a row with a patch merged into it, as a body; raise ``InvalidInput`` where that is none."""
    present = {name: row[name] for name in body.__struct_fields__}
    try:
        return msgspec.convert(_merged(present, msgspec.to_builtins(patch)), body)
    except msgspec.ValidationError as error:
        raise decode_error(error) from error


def _merged(target: Any, patch: Any) -> Any:
    """Merge as RFC 7396 section 2 says."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result


def body_with_id(body: type[Strict], name: str, prefix: str) -> type[msgspec.Struct]:
    """Return the body of a POST: the same, and an id with this prefix that may be chosen."""
    chosen = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": chosen_pattern(prefix)})]
    made = msgspec.defstruct(name, [("id", chosen | None, None)], bases=(body,), kw_only=True)
    made.__doc__ = f"{body.__doc__ or ''}\n\n``id`` may be chosen."
    return made


def patch_of(body: type[Strict]) -> type[msgspec.Struct]:
    """Return the body of a PATCH: every field may be left out, or be null."""
    fields = [(f.encode_name, _mergeable(f.type) | None | UnsetType, UNSET) for f in msgspec.structs.fields(body)]
    made = msgspec.defstruct(f"{body.__name__}Patch", fields, bases=(Strict,), kw_only=True)
    made.__doc__ = "The fields to change; null brings back a default."
    return made


def _mergeable(kind: Any) -> Any:
    """Return the type of a field's patch: an entry of an object that is null goes away."""
    if get_origin(kind) is not dict:
        return kind
    key, value = get_args(kind)
    return dict[key, value | None]  # type: ignore[valid-type]  # made of what the body says
