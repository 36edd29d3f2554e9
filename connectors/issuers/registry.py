"""Kinds of issuers: a module of this package with a ``CONFIG_TYPE``, named like the kind, is one."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import msgspec

import connectors.issuers
from core.errors import InvalidInput

_ALIASES = {"genericca": "local"}
"""Other names that a kind is asked for by, in lower case."""


def known_types() -> tuple[str, ...]:
    """Return the names of all kinds, sorted."""
    modules = [module.name for module in pkgutil.iter_modules(connectors.issuers.__path__)]
    return tuple(sorted(name for name in modules if _config_type(name) is not None))


def config_type(type_name: str) -> type[msgspec.Struct]:
    """Return the struct of a kind's configuration; raise ``InvalidInput`` for an unknown kind."""
    name = canonical(type_name)
    found = _config_type(name) if name in known_types() else None
    if found is None:
        raise InvalidInput.of("type", f"unknown issuer type {type_name!r}; known are {', '.join(known_types())}")
    return found


def canonical(type_name: str) -> str:
    """Return the one name of a kind."""
    return _ALIASES.get(type_name.lower(), type_name.lower())


def _config_type(module: str) -> type[msgspec.Struct] | None:
    found: type[msgspec.Struct] | None = getattr(import_module(f"connectors.issuers.{module}"), "CONFIG_TYPE", None)
    return found
