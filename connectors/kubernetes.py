"""Secrets of a Kubernetes cluster: read, applied and deleted over its API server with the official client.

The client is synchronous; it runs in worker threads, under both event loops, and is imported on first use. Writing is
server-side apply by the field manager ``certctl``, so that fields of others stay theirs. No error holds what a Secret
contains.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec

from core.errors import (
    CertctlError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    Misconfigured,
    NotFound,
    PreconditionFailed,
    Refused,
    Transient,
    Unauthenticated,
)
from core.secret import Secret

MANAGER = "certctl"
_REQUEST_S = 10.0
_CREDENTIALS_S = 60.0
"""How long reading the credentials may take: a kubeconfig may name a program that signs in somewhere."""
_MAX_WORDS = 400

TLS_TYPE = "kubernetes.io/tls"

T = TypeVar("T")


class ManagedFields(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Which fields one manager owns, as the server keeps it."""

    manager: str = ""
    operation: str = ""
    api_version: str = ""
    time: str = ""
    fields_type: str = ""
    fields_v1: dict[str, Any] = msgspec.field(default={}, name="fieldsV1")
    subresource: str = ""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Return what changes when this manager writes again."""
        return self.manager, self.operation, self.time


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """What the server keeps about a Secret beside its contents."""

    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    managed_fields: tuple[ManagedFields, ...] = ()


class Stored(msgspec.Struct, frozen=True):
    """A Secret as it stands in the cluster."""

    metadata: Metadata
    type: str = "Opaque"
    data: dict[str, Secret[bytes]] = {}
    immutable: bool = False

    @property
    def applied(self) -> dict[str, Any]:
        """Return the fields that certctl owns by having applied them (the server's form, ``fieldsV1``)."""
        for entry in self.metadata.managed_fields:
            if (entry.manager, entry.operation) == (MANAGER, "Apply"):
                return entry.fields_v1
        return {}

    @property
    def last_manager(self) -> str:
        """Return who has changed it last, as far as the server knows."""
        entries = sorted(self.metadata.managed_fields, key=lambda entry: entry.time)
        return entries[-1].manager if entries else "somebody"


class Fields(msgspec.Struct, frozen=True):
    """What is applied: everything that certctl shall own of a Secret; what it owned and is not here goes."""

    data: dict[str, Secret[bytes]]
    labels: dict[str, str]
    annotations: dict[str, str]


def secret_bytes(_kind: type[Any], value: Any) -> Secret[bytes]:  # noqa: ANN401 - a hook of msgspec
    """Return base64 as the bytes it stands for; raise ``ValueError``."""
    try:
        return Secret(base64.b64decode(value, validate=True))
    except (binascii.Error, TypeError) as error:
        raise ValueError("not base64") from error


class Secrets:
    """One Secret's API for one credential. Make it with ``connect``."""

    def __init__(self, api: Any, namespace: str, name: str) -> None:  # noqa: ANN401 - the client has no usable types
        self._api = api
        self.namespace = namespace
        self.name = name

    def close(self) -> None:
        """Close the connections."""
        self._api.api_client.close()

    def __str__(self) -> str:
        return f"Secret {self.namespace}/{self.name}"

    async def read(self) -> Stored | None:
        """Return the Secret as it stands, None when there is none."""
        try:
            return await self._stored(self._api.read_namespaced_secret)
        except NotFound:
            return None

    async def apply(self, fields: Fields, *, to: Stored | None, force: bool = False, dry_run: bool = False) -> Stored:
        """Make certctl's share of the Secret exactly ``fields``; create the Secret where there was none.

        Raises ``PreconditionFailed`` when the Secret is not the one it was, unchanged. A field that another manager
        owns with another value is a ``Conflict`` that names it, unless ``force`` takes it over.
        """
        metadata: dict[str, Any] = {"name": self.name, "labels": fields.labels, "annotations": fields.annotations}
        if to is not None:
            # The version alone would not do: where the Secret is gone, the server makes another one.
            metadata |= {"uid": to.metadata.uid, "resourceVersion": to.metadata.resource_version}
        data = {key: base64.b64encode(value.reveal()).decode() for key, value in fields.data.items()}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": TLS_TYPE, "data": data}
        options: dict[str, Any] = {"dry_run": "All"} if dry_run else {}
        return await self._stored(
            self._api.patch_namespaced_secret,
            body=body,
            field_manager=MANAGER,
            force=force,
            _content_type="application/apply-patch+yaml",
            **options,
        )

    async def note_owners(self, owners: tuple[ManagedFields, ...], *, to: Stored) -> None:
        """Give the fields back to the managers that owned them; their values stay."""
        version = to.metadata.resource_version
        metadata = {"managedFields": msgspec.to_builtins(owners), "resourceVersion": version}
        await self._call(
            self._api.patch_namespaced_secret,
            body={"metadata": metadata},
            field_manager=MANAGER,
            _content_type="application/merge-patch+json",
        )

    async def delete(self, stored: Stored) -> None:
        """Delete the Secret if it still is this one, unchanged; raise ``PreconditionFailed`` otherwise."""
        uid, version = stored.metadata.uid, stored.metadata.resource_version
        await self._call(
            self._api.delete_namespaced_secret,
            body={"preconditions": {"uid": uid, "resourceVersion": version}},
        )

    async def _stored(self, method: Callable[..., Any], **arguments: Any) -> Stored:
        answer = await self._call(method, **arguments)
        try:
            return msgspec.json.decode(answer, type=Stored, dec_hook=secret_bytes)
        except msgspec.DecodeError as error:
            raise Transient(f"{self}: the API server's answer cannot be read: {error}; is it one?") from error

    async def _call(self, method: Callable[..., Any], **arguments: Any) -> bytes:
        def call() -> bytes:
            answer = method(self.name, self.namespace, _preload_content=False, _request_timeout=_REQUEST_S, **arguments)
            return bytes(answer.data)

        return await _in_thread(call, str(self))


async def connect(kubeconfig: str, context: str, namespace: str, name: str) -> Secrets:
    """Return the API of one Secret, with the credentials of a kubeconfig's context, or of the pod this runs in.

    Raises ``Misconfigured`` for credentials that are missing, broken or not to be trusted.
    """
    with anyio.move_on_after(_CREDENTIALS_S):
        api = await anyio.to_thread.run_sync(_api, kubeconfig, context, abandon_on_cancel=True)
        return Secrets(api, namespace, name)
    raise DeadlineExceeded(f"the credentials of {kubeconfig} were not there within {_CREDENTIALS_S:g} s")


def _api(kubeconfig: str, context: str) -> Any:  # noqa: ANN401
    try:
        from kubernetes import client, config  # noqa: PLC0415 - 37 MB that only such a target needs
    except ImportError as error:
        raise Misconfigured("the Kubernetes client is not installed; run: pip install 'certctl[kubernetes]'") from error
    settings = client.Configuration()
    # Neither a redirect nor another attempt: what carries a key goes where it was sent, once.
    settings.retries = False
    try:
        if kubeconfig:
            _check_trusted(kubeconfig)
            config.load_kube_config(kubeconfig, context or None, settings, persist_config=False)
        else:
            config.load_incluster_config(settings)
    except (config.ConfigException, OSError, ValueError, TypeError, KeyError) as error:
        raise Misconfigured(_no_credentials(kubeconfig, error)) from error
    if not settings.host.startswith("https://") or not settings.verify_ssl:
        problem = "a key is only sent to a server that was verified; name it by https and its certificate-authority"
        raise Misconfigured(f"{kubeconfig}: {settings.host}: {problem}")
    return client.CoreV1Api(client.ApiClient(settings))


def _check_trusted(kubeconfig: str) -> None:
    """Refuse a file that others could have written: it says which programs are run and who gets the keys."""
    facts = Path(kubeconfig).stat()
    if facts.st_uid not in {0, os.geteuid()} or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        remedy = f"run: chown root {kubeconfig} && chmod go-w {kubeconfig}"
        raise Misconfigured(f"{kubeconfig} could have been changed by other users, so it is not trusted; {remedy}")


def _no_credentials(kubeconfig: str, error: Exception) -> str:
    if kubeconfig:
        return f"{kubeconfig} cannot be used: {_brief(str(error))}"
    remedy = 'outside of a cluster, name a kubeconfig: config = "/path" in the service\'s table of agent.toml'
    return f"no credentials of a pod: {_brief(str(error))} {remedy}"


async def _in_thread(call: Callable[[], T], what: str) -> T:
    import urllib3  # noqa: PLC0415 - part of the client
    from kubernetes.client import ApiException  # noqa: PLC0415
    from kubernetes.config import ConfigException  # noqa: PLC0415

    try:
        # Not abandoned: whether a write has happened must be known.
        return await anyio.to_thread.run_sync(call)
    except ApiException as error:
        raise _translated(error, what) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        no_answer = isinstance(error, urllib3.exceptions.TimeoutError)
        if no_answer and not isinstance(error, urllib3.exceptions.NewConnectionError):
            raise DeadlineExceeded(f"{what}: no answer from the API server within {_REQUEST_S:g} s") from error
        raise Transient(f"{what}: the API server cannot be reached: {_brief(str(error))}") from error
    except ConfigException as error:
        raise Misconfigured(f"{what}: the credentials cannot be renewed: {_brief(str(error))}") from error


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""
    field: str = ""


class _Details(msgspec.Struct, frozen=True):
    kind: str = ""
    causes: tuple[_Cause, ...] = ()
    retry_after_s: float = msgspec.field(default=0.0, name="retryAfterSeconds")


class _Status(msgspec.Struct, frozen=True):
    """How the server says that something went wrong (its kind ``Status``)."""

    message: str = ""
    details: _Details = _Details()


_KINDS: Mapping[int, tuple[type[CertctlError], str]] = {
    401: (Unauthenticated, "the API server does not take the credentials; are they of this cluster, and not expired?"),
    403: (Forbidden, "its role needs get, create, patch and delete on this Secret"),
    404: (NotFound, "does the namespace exist?"),
    409: (PreconditionFailed, "somebody has changed it meanwhile"),
    422: (Refused, "the API server does not take it"),
}


def _translated(error: Any, what: str) -> CertctlError:  # noqa: ANN401 - an ApiException
    if not error.status:
        return Transient(f"{what}: the API server cannot be verified: {_brief(str(error.reason))}")
    try:
        said = msgspec.json.decode(error.body or b"{}", type=_Status)
    except msgspec.DecodeError:
        said = _Status()
    if owners := [cause for cause in said.details.causes if cause.reason == "FieldManagerConflict"]:
        return _not_ours(owners, what)
    if any(cause.field == "metadata.uid" for cause in said.details.causes):
        return PreconditionFailed(f"{what}: somebody has made it anew meanwhile")
    words = f": {_brief(said.message)}" if said.message else ""
    if error.status in _KINDS:
        kind, remedy = _KINDS[error.status]
        return kind(f"{what}: {remedy}{words}")
    return Transient(f"{what}: the API server answers {error.status}{words}", retry_after_s=said.details.retry_after_s)


def _not_ours(owners: list[_Cause], what: str) -> Conflict:
    told = "; ".join(f"{cause.field.removeprefix('.')} ({cause.message})" for cause in owners)
    remedy = "stop that manager, or let certctl take these fields over with force_conflicts"
    return Conflict(f"{what}: somebody else manages {_brief(told)}; {remedy}")


def _brief(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _MAX_WORDS else f"{words[:_MAX_WORDS]}…"
