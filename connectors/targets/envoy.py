"""Envoy: one certificate with its key in PEM files, and a secret file (SDS) of certctl's own that names them.

A listener names the secret file as ``path_config_source`` of a ``tls_certificate_sds_secret_configs``. The secret has
its own folder as ``watched_directory``: the rename of the secret file, which comes last, makes Envoy read certificate
and key anew. There is no reload. The staged pair is tried with a configuration that holds nothing else, which needs no
privilege. This module does not read or edit envoy.yaml, and serves no secrets over gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any

import msgspec

from connectors.targets.base import (
    Command,
    FileSpec,
    HostName,
    Material,
    Role,
    Runner,
    Service,
    ServiceCommands,
    StagedCheck,
    found,
)
from connectors.targets.pem import PEMConfig, check_watched_path, pair_of, pair_paths, pem_files, watched_file

BINARIES = ("/usr/bin/envoy", "/usr/local/bin/envoy")
CONFIGS = ("/etc/envoy/envoy.yaml", "/etc/envoy/envoy.json")

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_ECHO = "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"


class EnvoyConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Envoy finds the certificate."""

    sds_path: Annotated[
        str,
        msgspec.Meta(
            description="Secret file that certctl owns, .yaml or .yml, as path_config_source of the listener names it.",
            max_length=4000,
        ),
    ]
    sds_name: Annotated[
        str,
        msgspec.Meta(
            description="Name of the secret, as in the listener's tls_certificate_sds_secret_configs.",
            min_length=1,
            max_length=253,
        ),
    ] = "certctl"
    service: Annotated[HostName, msgspec.Meta(description="Name of this Envoy in the host's agent.toml.")] = "envoy"

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        super().__post_init__()
        check_watched_path("sds_path", self.sds_path)


class EnvoyTarget:
    """Describes installations for Envoy."""

    config_type = EnvoyConfig

    def files(self, config: EnvoyConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the PEM files and, last, the secret that names them."""
        folder = str(PurePath(config.sds_path).parent)
        certificate = {**_pair(*pair_paths(config)), "watched_directory": {"path": folder}}
        secret = {"@type": f"{_TLS}.Secret", "name": config.sds_name, "tls_certificate": certificate}
        return (*pem_files(config, material), watched_file(config, config.sds_path, {"resources": [secret]}, material))

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``envoy --mode validate`` on this service's own configuration, and no reload: it watches its files."""
        binary = found(service, "binary", BINARIES)
        return ServiceCommands(check=_validate(binary, found(service, "config", CONFIGS)), reload=None)

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path, _runner: Runner
    ) -> StagedCheck:
        """Describe ``envoy --mode validate`` on a configuration that holds only the staged pairs."""
        text = msgspec.json.encode(_staged_config(staged)).decode()
        binary = found(service, "binary", BINARIES)
        return StagedCheck({"envoy.json": text}, _validate(binary, f"{scratch}/envoy.json"))


TARGET = EnvoyTarget()


def _validate(binary: str, config: str) -> Command:
    return Command((binary, "--mode", "validate", "--log-level", "error", "-c", config))


def _pair(certificate: str, key: str) -> dict[str, Any]:
    return {"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}


def _staged_config(staged: Sequence[Mapping[Role, Path]]) -> dict[str, Any]:
    listeners = [_staged_listener(number, files) for number, files in enumerate(staged)]
    return {"static_resources": {"listeners": listeners}}


def _staged_listener(number: int, files: Mapping[Role, Path]) -> dict[str, Any]:
    # Port 0: validation binds nothing.
    tls = {
        "@type": f"{_TLS}.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [_pair(*pair_of(files))]},
    }
    return {
        "name": f"staged-{number}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {
                "filters": [{"name": "echo", "typed_config": {"@type": _ECHO}}],
                "transport_socket": {"name": "tls", "typed_config": tls},
            }
        ],
    }
