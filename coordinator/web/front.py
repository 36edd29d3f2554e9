"""Short reads, answered in front of the framework: the same dispatch without a task, a timer and a context for each.

The framework does as much for a read of one row as the read itself takes. What it does it does for requests with bodies
and for long answers, and those go to it: everything but the reads of the table that answer with JSON as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from quart import Quart, Request
from werkzeug.datastructures import Headers
from werkzeug.sansio.request import Request as SansIORequest

from coordinator.web.dispatch import answer_to
from coordinator.web.later import Message, Receive, Send
from coordinator.web.paging import PageQuery
from coordinator.web.reading import announced
from coordinator.web.table import Route

if TYPE_CHECKING:
    from coordinator.context import Context


class _Request(SansIORequest):
    """Stands in for the framework's request: all of it but a body."""

    def __init__(self, scope: Message, headers: Headers) -> None:
        query = scope["query_string"]
        super().__init__(scope["method"], scope["scheme"], None, "", scope["path"], query, headers, None)
        self.scope = scope


_ANY = object()
_HERE = object()
_Node = dict[object, Any]


class Paths:
    """The paths of a route table as a tree of their segments; a literal one goes before a parameter."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root: _Node = {}
        for route in routes:
            node, names = self._root, list[str]()
            for segment in route.path.split("/"):
                if segment.startswith("{"):
                    names.append(segment.strip("{}"))
                node = node.setdefault(_ANY if segment.startswith("{") else segment, {})
            node.setdefault(_HERE, {})[route.method] = (route, names)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a path with the values of its parameters, if it is found at first go."""
        node, values = self._root, list[str]()
        for segment in path.split("/"):
            inner = node.get(segment)
            if inner is None and segment:
                values.append(segment)
                inner = node.get(_ANY)
            if inner is None:
                return None
            node = inner
        found = node.get(_HERE, {}).get(method)
        return found and (found[0], dict(zip(found[1], values, strict=True)))


def install(app: Quart, ctx: Context, routes: Iterable[Route]) -> None:
    """Answer short reads of the table here, and have ``app`` answer everything else."""
    paths, inner = Paths(routes), app.asgi_app

    async def outer(scope: Message, receive: Receive, send: Send) -> None:
        found = paths.find("GET", scope["path"]) if scope.get("method") == "GET" else None
        if found is not None and _is_short(found[0]):
            headers = Headers([(name.decode("latin1"), value.decode("latin1")) for name, value in scope["headers"]])
            if not announced(headers):
                await _serve(ctx, *found, cast("Request", _Request(scope, headers)), send)
                return
        await inner(scope, receive, send)  # type: ignore[arg-type]  # plain ASGI, see ``later``

    app.asgi_app = outer  # type: ignore[method-assign, assignment]  # the framework's own way for middleware


def _is_short(route: Route) -> bool:
    return route.response is not None and not issubclass(route.query, PageQuery)  # a list may be streamed


async def _serve(ctx: Context, route: Route, path: dict[str, str], request: Request, send: Send) -> None:
    body, status, headers = await answer_to(ctx, route, request, path)
    assert isinstance(body, bytes)  # noqa: S101 - whatever comes in pieces is no JSON
    sent = [(name.lower().encode("latin1"), value.encode("latin1")) for name, value in headers.items()]
    if status != HTTPStatus.NO_CONTENT:
        sent.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body, "more_body": False})
