"""Types of providers, each a module of this package with a ``CONFIG_TYPE`` and a ``make``."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

import msgspec

import connectors.issuers.acme.dns
from connectors.issuers.acme.dns.base import Provider
from core.errors import InvalidInput


def known_types() -> tuple[str, ...]:
    """Return the names of all types, sorted."""
    modules = [module.name for module in pkgutil.iter_modules(connectors.issuers.acme.dns.__path__)]
    return tuple(sorted(name for name in modules if hasattr(_module(name), "CONFIG_TYPE")))


def config_type(type_name: str) -> type[msgspec.Struct]:
    """Return the struct of a type's configuration; raise ``InvalidInput`` for an unknown type."""
    if type_name not in known_types():
        raise InvalidInput.of("dns.type", f"is {type_name!r}; known are {', '.join(known_types())}")
    found: type[msgspec.Struct] = _module(type_name).CONFIG_TYPE
    return found


def provider(type_name: str, config: msgspec.Struct) -> Provider:
    """Return a provider of a type, ready to be used."""
    if not isinstance(config, config_type(type_name)):
        message = f"{type(config).__name__} does not configure {type_name}"
        raise TypeError(message)
    made: Provider = _module(type_name).make(config)
    return made


def _module(name: str) -> ModuleType:
    return import_module(f"{connectors.issuers.acme.dns.__name__}.{name}")
