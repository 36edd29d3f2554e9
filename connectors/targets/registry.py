"""Finds a target connector by its type name and imports it on use.

A built-in connector is a module of this package, named like its type, whose ``TARGET`` is the connector. Third parties
offer theirs in the entry-point group ``certctl.targets``: the entry's name is the type, its value the connector.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module, metadata
from typing import Any

import connectors.targets
from connectors.targets.base import FileTarget, FileTargetConfig, RemoteTarget, RemoteTargetConfig
from core import marking
from core.errors import InvalidInput, Misconfigured

ENTRY_POINT_GROUP = "certctl.targets"

_NOT_CONNECTORS = frozenset({"base", "haproxy_runtime", "pem", "registry"})


def known_types() -> tuple[str, ...]:
    """Return the names of all types, built-in and third-party, sorted, without importing any."""
    third_party = {entry.name for entry in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    return tuple(sorted(_built_in() | third_party))


def find(type_name: str) -> FileTarget[Any] | RemoteTarget:
    """Return the connector for ``type_name``; raise ``InvalidInput`` for an unknown type."""
    try:
        if type_name in _built_in():
            target: FileTarget[Any] | RemoteTarget = import_module(f"connectors.targets.{type_name}").TARGET
            return target
        for entry in metadata.entry_points(group=ENTRY_POINT_GROUP, name=type_name):
            third_party: FileTarget[Any] | RemoteTarget = entry.load()
            return third_party
    except (ImportError, AttributeError) as error:
        detail = f"the connector for target type {type_name!r} cannot be loaded: {error}; install what it needs"
        raise Misconfigured(detail) from error
    raise InvalidInput.of("type", f"unknown target type {type_name!r}; known are {', '.join(known_types())}")


def decode_config(type_name: str, config: dict[str, Any]) -> FileTargetConfig | RemoteTargetConfig:
    """Return ``config`` as the connector's struct; raise ``InvalidInput`` naming the wrong field (``config.…``)."""
    decoded: FileTargetConfig | RemoteTargetConfig = marking.decode(config, find(type_name).config_type)
    return decoded


def config_schema(type_name: str) -> dict[str, Any]:
    """Return the JSON schema of the type's configuration, with help texts and ``secret`` marks."""
    return marking.schema(find(type_name).config_type)


def _built_in() -> frozenset[str]:
    names = {module.name for module in pkgutil.iter_modules(connectors.targets.__path__)}
    return frozenset(names - _NOT_CONNECTORS)
