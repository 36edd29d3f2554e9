"""From a work item to a deployment that the host's policy allows; nothing is written or run here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.deployment.material import read_material
from agent.policy import HostPolicy
from connectors.probes.starttls import ProbeProtocol
from connectors.probes.tls import check_name
from connectors.targets import registry
from connectors.targets.base import (
    APITarget,
    FileSpec,
    FileTarget,
    FileTargetConfig,
    Material,
    ProbeConfig,
    Service,
    ServiceCommands,
    default_sni,
)
from core import marking
from core.errors import InvalidInput, Refused
from core.hpke import open_sealed
from core.secret import Secret
from core.wire import DeploymentItem

_TARGET_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")


class PlannedFile(msgspec.Struct, frozen=True):
    """A file to install and the place that the policy allows for it, with the links of its folder resolved."""

    spec: FileSpec
    path: Path


class Endpoint(msgspec.Struct, frozen=True):
    """Where the new certificate must be seen, with which chain (DER, leaf first), and how soon."""

    host: str
    port: int
    sni: str
    timeout_s: float
    protocol: ProbeProtocol = "tls"
    chain: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        where = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        where = where if self.protocol == "tls" else f"{self.protocol} {where}"
        return f"{where} ({self.sni})" if self.sni else where


class Prepared(msgspec.Struct, frozen=True):
    """Everything that is known before the host is touched."""

    item: DeploymentItem
    connector: FileTarget[Any]
    config: FileTargetConfig
    service: Service
    commands: ServiceCommands
    material: Material
    files: tuple[PlannedFile, ...]
    endpoint: Endpoint


def prepare(
    item: DeploymentItem,
    private_key_pem: Secret[bytes],
    policy: HostPolicy,
    sealing_key: X25519PrivateKey | None = None,
) -> Prepared:
    """Check the item against itself, its connector and the host's policy; raise a ``Permanent`` error otherwise."""
    check_target(item, policy)
    connector: Any = registry.find(item.target_type)
    config: Any = registry.decode_config(item.target_type, opened(item, sealing_key))
    for field in ("owner", "group"):
        policy.check_owner(getattr(config, field), field=f"config.{field}")
    service = policy.service(item.target_type, config.service)
    material = read_material(item, private_key_pem)
    return Prepared(
        item=item,
        connector=connector,
        config=config,
        service=service,
        commands=resolve_commands(
            policy, connector, service, config.validate_action, config.reload_action, api=uses_api(connector, config)
        ),
        material=material,
        files=_place(connector.files(config, material), policy),
        endpoint=endpoint_of(config.probe, item, whole=getattr(config, "chain", "") != "leaf_only"),
    )


def check_target(item: DeploymentItem, policy: HostPolicy) -> None:
    """Raise ``InvalidInput`` for an id that no target has, ``Refused`` for a type that this host does not take."""
    if not _TARGET_ID.fullmatch(item.target_id):
        raise InvalidInput.of("target_id", f"{item.target_id[:100]!r} is not an id of a target")
    policy.check_type(item.target_type)


def opened(item: DeploymentItem, sealing_key: X25519PrivateKey | None) -> dict[str, Any]:
    """Return the item's configuration with its secrets; raise ``Refused`` for one that was not sealed to this agent."""
    if not item.sealed:
        return item.config
    if sealing_key is None:
        raise Refused("the target's secrets cannot be opened: this agent has no sealing key")
    secrets = {path: open_sealed(sealing_key, sealed, item.target_id, path) for path, sealed in item.sealed.items()}
    return marking.put_together(item.config, {path: secret.reveal() for path, secret in secrets.items()})


def resolve_commands(
    policy: HostPolicy,
    connector: FileTarget[Any],
    service: Service,
    validate_action: str | None,
    reload_action: str | None,
    *,
    api: bool = False,
) -> ServiceCommands:
    """Return what checks and reloads a service: the target's named action, the service's, or the connector's own.

    A check may be missing, a reload may not: then ``Refused`` says which lines of agent.toml are. With ``api`` a
    reload is for what that cannot do, and the daemon checks what it is given.
    """
    validate_action = validate_action or service.validate_action
    reload_action = reload_action or service.reload_action
    check = policy.action(validate_action) if validate_action else None
    reload = policy.action(reload_action) if reload_action else None
    if api and isinstance(connector, APITarget):
        return ServiceCommands(check, reload or connector.fallback(service), service)
    built_in = connector.commands(service) if check is None or reload is None else None
    if built_in is not None:
        return ServiceCommands(check or built_in.check, reload or built_in.reload)
    if reload is None:
        raise Refused(policy.without_reload(service))
    return ServiceCommands(check, reload)


def uses_api(connector: FileTarget[Any], config: FileTargetConfig) -> bool:
    """Say whether the target's certificate is handed over by the daemon's API."""
    return isinstance(connector, APITarget) and connector.uses_api(config)


def endpoint_of(probe: ProbeConfig, item: DeploymentItem, *, whole: bool = True) -> Endpoint:
    """Return where a target is looked at, for its ``whole`` chain or not; raise ``InvalidInput`` for a wrong name."""
    sni = probe.sni or default_sni(item.names)
    check_name(probe.host, "config.probe.host")
    if sni:
        check_name(sni, "config.probe.sni")
    return Endpoint(
        probe.host, probe.port, sni, probe.timeout_s, probe.protocol, item.chain if whole else item.chain[:1]
    )


def _place(files: tuple[FileSpec, ...], policy: HostPolicy) -> tuple[PlannedFile, ...]:
    placed = tuple(PlannedFile(spec, policy.check_path(spec.path, field=f"{spec.role} path")) for spec in files)
    if len({file.path for file in placed}) < len(placed):
        raise Refused("two of the target's paths lead to the same file; give each its own")
    return placed
