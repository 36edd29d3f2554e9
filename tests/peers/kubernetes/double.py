"""A double of the API server for Secrets, where the real one is not built: ownership, conflicts, preconditions, rights.

It goes by the API's documents (server-side apply, optimistic concurrency, RBAC on one object, validation of
``kubernetes.io/tls``); the tests that use it are the ones that are run on the real server, too. Everything in a Secret
is a leaf in a map, so ownership is a set of paths.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from benchmarks.lab.processes import free_ports
from tests.peers.kubernetes.peer import APPLY, VERBS, Peer

Path_ = tuple[str, ...]
Owner = tuple[str, str]
"""A manager and its operation: ``Apply`` or ``Update``."""

_MAPS: tuple[Path_, ...] = (("data",), ("metadata", "labels"), ("metadata", "annotations"))


@dataclass
class Failed(Exception):
    """An answer of kind ``Status``."""

    code: int
    reason: str
    message: str
    causes: Sequence[dict[str, str]] = ()

    def body(self) -> dict[str, Any]:
        details = {"causes": list(self.causes)} if self.causes else {}
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": self.message}
        return {**status, "reason": self.reason, "details": details, "code": self.code}


@dataclass
class Object:
    """A Secret: its values by path, who owns which, and what the server adds."""

    values: dict[Path_, Any] = field(default_factory=dict)
    owners: dict[Owner, set[Path_]] = field(default_factory=dict)
    times: dict[Owner, str] = field(default_factory=dict)
    uid: str = ""
    version: str = ""

    def render(self, namespace: str, name: str) -> dict[str, Any]:
        """Return it as JSON."""
        metadata = {"name": name, "namespace": namespace, "uid": self.uid, "resourceVersion": self.version}
        managed = [
            {"manager": manager, "operation": operation, "apiVersion": "v1", "time": self.times[manager, operation]}
            | {"fieldsType": "FieldsV1", "fieldsV1": _nested(paths)}
            for (manager, operation), paths in self.owners.items()
        ]
        body: dict[str, Any] = {
            "kind": "Secret",
            "apiVersion": "v1",
            "metadata": {**metadata, "managedFields": managed},
        }
        for path, value in self.values.items():
            place = body
            for step in path[:-1]:
                place = place.setdefault(step, {})
            place[path[-1]] = value
        return body


class Store:
    """All Secrets, and the rules by which they change."""

    def __init__(self) -> None:
        self.namespaces: set[str] = set()
        self.objects: dict[tuple[str, str], Object] = {}
        self._numbers = count(100)

    def get(self, namespace: str, name: str) -> Object:
        """Return a Secret."""
        if (namespace, name) not in self.objects:
            raise Failed(404, "NotFound", f'secrets "{name}" not found')
        return self.objects[namespace, name]

    def put(self, namespace: str, name: str, old: Object | None, new: Object) -> Object:
        """Store a Secret after its validation, with a new version if anything has changed."""
        _validate(name, old, new)
        if old is None:
            number = next(self._numbers)
            new.uid = f"uid-{number}"
        elif (old.values, old.owners) == (new.values, new.owners):
            return old
        new.version = str(next(self._numbers))
        self.objects[namespace, name] = new
        return new

    def apply(self, old: Object | None, body: dict[str, Any], manager: str, *, force: bool) -> Object:
        """Server-side apply: the manager owns exactly what it sends."""
        owner, wanted = (manager, "Apply"), dict(_leaves(body))
        new = deepcopy(old) if old else Object()
        before = new.owners.pop(owner, set())
        changed = {path for path, value in wanted.items() if new.values.get(path) != value}
        causes = []
        for other, paths in new.owners.items():
            if force:
                paths.difference_update(changed)
            causes += [_conflict(other, path) for path in sorted(paths & changed)]
        if causes:
            several = "conflict" if len(causes) == 1 else "conflicts"
            told = "; ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
            raise Failed(409, "Conflict", f"Apply failed with {len(causes)} {several}: {told}", causes)
        for path in before - wanted.keys():
            if not any(path in paths for paths in new.owners.values()):
                new.values.pop(path, None)
        new.values |= wanted
        self._own(new, owner, set(wanted), old)
        return new

    def update(self, old: Object | None, values: dict[Path_, Any], manager: str, managed: Any) -> Object:  # noqa: ANN401
        """Any other write: who changes a field owns it."""
        new = deepcopy(old) if old else Object()
        if managed is not None:
            new.owners = {(entry["manager"], entry["operation"]): set(_paths(entry["fieldsV1"])) for entry in managed}
            new.times = {(entry["manager"], entry["operation"]): entry["time"] for entry in managed}
        changed = {path for path in {*values, *new.values} if values.get(path) != new.values.get(path)}
        for paths in new.owners.values():
            paths.difference_update(changed)
        new.values = values
        if owned := changed & values.keys():
            owner = (manager, "Update")
            self._own(new, owner, new.owners.get(owner, set()) | owned, old)
        new.owners = {owner: paths for owner, paths in new.owners.items() if paths}
        return new

    def _own(self, new: Object, owner: Owner, paths: set[Path_], old: Object | None) -> None:
        new.owners[owner] = paths
        new.owners = {other: owned for other, owned in new.owners.items() if owned}
        if old is None or old.owners.get(owner) != paths or old.values != new.values:
            new.times[owner] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _invalid(name: str, field_: str, problem: str) -> Failed:
    causes = ({"reason": "FieldValueInvalid", "message": problem, "field": field_},)
    return Failed(422, "Invalid", f'Secret "{name}" is invalid: {field_}: {problem}', causes)


def _validate(name: str, old: Object | None, new: Object) -> None:
    if new.values.get(("type",)) == "kubernetes.io/tls":
        for key in ("tls.crt", "tls.key"):
            if ("data", key) not in new.values:
                raise _invalid(name, f"data[{key}]", "Required value")
    for path, value in new.values.items():
        if path[0] == "data":
            base64.b64decode(value, validate=True)
    if old is None:
        return
    if old.values.get(("type",), "Opaque") != new.values.get(("type",), "Opaque"):
        raise _invalid(name, "type", "Invalid value: field is immutable")
    if old.values.get(("immutable",)) and _data(old) != _data(new):
        raise _invalid(name, "data", "Forbidden: field is immutable when `immutable` is set")


def _data(secret: Object) -> dict[Path_, Any]:
    return {path: value for path, value in secret.values.items() if path[0] == "data"}


def _leaves(body: dict[str, Any]) -> Iterator[tuple[Path_, Any]]:
    for path in _MAPS:
        inner: Any = body
        for step in path:
            inner = inner.get(step) or {}
        yield from (((*path, key), value) for key, value in inner.items())
    yield from (((key,), body[key]) for key in ("type", "immutable") if key in body)


def _conflict(owner: Owner, path: Path_) -> dict[str, str]:
    manager, operation = owner
    using = " using v1" if operation == "Update" else ""
    where = "".join(f".{step}" for step in path)
    return {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"{using}', "field": where}


def _nested(paths: set[Path_]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        place = tree
        for step in path:
            place = place.setdefault(f"f:{step}", {})
    return tree


def _paths(tree: dict[str, Any], before: Path_ = ()) -> Iterator[Path_]:
    for step, inner in tree.items():
        here = (*before, step.removeprefix("f:"))
        yield from _paths(inner, here) if inner else (here,)


class Double(Peer):
    """The double, served by threads of this process."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        super().__init__(folder, port)
        self.store = Store()
        self.rights: dict[str, tuple[str, str, frozenset[str]]] = {}
        handler = type("BoundHandler", (_Handler,), {"double": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.cert_path, self.key_path)
        self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)

    def start(self) -> None:
        """Serve."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stop serving."""
        self.admin.close()
        self._server.shutdown()
        self._server.server_close()

    def add_namespace(self, namespace: str) -> None:
        """Make a namespace."""
        self.store.namespaces.add(namespace)

    def grant(self, namespace: str, secret: str, verbs: Sequence[str] = VERBS) -> str:
        """Make up a token."""
        token = f"token-{len(self.rights)}"
        self.rights[token] = (namespace, secret, frozenset(verbs))
        return token

    def allow(self, namespace: str, secret: str, verbs: Sequence[str] = VERBS) -> None:
        """Change what its tokens stand for."""
        for token, (where, what, _) in self.rights.items():
            if (where, what) == (namespace, secret):
                self.rights[token] = (where, what, frozenset(verbs))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: a client that goes away is none of a test's concern."""


class _Handler(BaseHTTPRequestHandler):
    double: ClassVar[Double]
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    lock = threading.Lock()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer("get")

    def do_POST(self) -> None:
        self._answer("create")

    def do_PATCH(self) -> None:
        self._answer("patch")

    def do_DELETE(self) -> None:
        self._answer("delete")

    def _answer(self, verb: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        try:
            with self.lock:
                code, answer = self._do(verb, body)
        except Failed as failed:
            code, answer = failed.code, failed.body()
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _do(self, verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        url = urlsplit(self.path)
        steps, query = url.path.strip("/").split("/"), {key: value[0] for key, value in parse_qs(url.query).items()}
        namespace, name = steps[3], steps[5] if len(steps) > 5 else str(body.get("metadata", {}).get("name"))
        self._allow(verb, namespace, name)
        store, key = self.double.store, (namespace, name)
        if verb == "get":
            return 200, store.get(*key).render(*key)
        old = store.objects.get(key)
        if verb == "delete":
            _check(store.get(*key), name, body.get("preconditions", {}))
            del store.objects[key]
            return 200, {"kind": "Status", "status": "Success"}
        new = self._changed(verb, old, body, query, key)
        if namespace not in store.namespaces:
            raise Failed(404, "NotFound", f'namespaces "{namespace}" not found')
        if query.get("dryRun") == "All":
            _validate(name, old, new)
            return 200, new.render(*key)
        return 201 if old is None else 200, store.put(*key, old, new).render(*key)

    def _changed(
        self, verb: str, old: Object | None, body: dict[str, Any], query: dict[str, str], key: tuple[str, str]
    ) -> Object:
        store, metadata = self.double.store, body.get("metadata", {})
        manager = query.get("fieldManager", "unknown")
        if verb == "create":
            if old is not None:
                raise Failed(409, "AlreadyExists", f'secrets "{key[1]}" already exists')
            return store.update(None, {("type",): "Opaque"} | dict(_leaves(body)), manager, None)
        if old is not None:
            _check(old, key[1], {name: value for name, value in metadata.items() if name != "uid"})
            if metadata.get("uid", old.uid) != old.uid:
                raise _invalid(key[1], "metadata.uid", "Invalid value: field is immutable")
        if self.headers["Content-Type"] == APPLY:
            if old is None:
                self._allow("create", *key)
                if "uid" in metadata:
                    raise _conflicting(key[1], f"uid mismatch: no existing object with uid {metadata['uid']} was found")
            return store.apply(old, body, manager, force=query.get("force", "").lower() == "true")
        current = store.get(*key)
        gone = {path for path, value in _leaves(body) if value is None}
        merged = current.values | dict(_leaves(body))
        values = {path: value for path, value in merged.items() if path not in gone}
        return store.update(current, values, manager, metadata.get("managedFields"))

    def _allow(self, verb: str, namespace: str, name: str) -> None:
        token = self.headers.get("Authorization", "").partition(" ")[2]
        if token == self.double.admin_token:
            return
        if token not in self.double.rights:
            raise Failed(401, "Unauthorized", "Unauthorized")
        where, what, verbs = self.double.rights[token]
        if (where, what) != (namespace, name) or verb not in verbs:
            user = f'User "system:serviceaccount:{where}:certctl-{what}" cannot {verb} resource "secrets"'
            told = f'secrets "{name}" is forbidden: {user} in API group "" in the namespace "{namespace}"'
            raise Failed(403, "Forbidden", told)


def _check(secret: Object, name: str, expected: dict[str, Any]) -> None:
    """Hold a request's ``uid`` and ``resourceVersion`` against the Secret."""
    if (
        expected.get("resourceVersion", secret.version) != secret.version
        or expected.get("uid", secret.uid) != secret.uid
    ):
        raise _conflicting(name, "the object has been modified; please apply your changes to the latest version")


def _conflicting(name: str, problem: str) -> Failed:
    return Failed(409, "Conflict", f'Operation cannot be fulfilled on secrets "{name}": {problem}')
