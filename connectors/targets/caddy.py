"""Caddy: one certificate with its key in PEM files, which Caddy reads or is handed by its admin API.

Mode ``file``: a ``tls`` directive or ``load_files`` names the files. ``caddy reload --force`` takes changed ones into
use; without ``--force`` Caddy compares configurations, finds the same one and keeps the old certificate. Mode ``api``:
an entry of ``load_pem`` with an ``@id`` made of the certificate's path holds what the files hold. Caddy keeps it over a
restart only as part of its autosaved configuration.

The staged pair is tried by ``caddy validate`` with a configuration that loads nothing else, which needs no privilege.
This module does not read or edit a Caddyfile.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import anyio
import httpx
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
from connectors.targets.pem import PEMConfig, pair_of, pem_files
from core.errors import Misconfigured, Transient

BINARIES = ("/usr/bin/caddy", "/usr/local/bin/caddy")
CONFIGS = ("/etc/caddy/Caddyfile", "/etc/caddy/caddy.json")

_LOAD_PEM = "/config/apps/tls/certificates/load_pem"
_API_TIMEOUT_S = 30.0
_BROKEN_OFF = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
_TRIES = 4
_PAUSE_S = 0.1
_MAX_SAID = 600
_LOCAL = re.compile(r"unix//\S+|(?:localhost|127\.\d+\.\d+\.\d+|\[::1\]):\d{1,5}")


class CaddyConfig(PEMConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Caddy reads its certificate from."""

    mode: Annotated[
        Literal["file", "api"],
        msgspec.Meta(
            description="file: Caddy's configuration names the files, and it is reloaded; "
            "api: the files' contents are handed to Caddy's admin API, which the host's agent.toml names."
        ),
    ] = "file"
    service: Annotated[HostName, msgspec.Meta(description="Name of this Caddy in the host's agent.toml.")] = "caddy"

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        super().__post_init__()
        if self.mode == "api" and self.reload_action is not None:
            raise ValueError("reload_action: has no meaning with mode api, which reloads nothing; remove it")


class CaddyTarget:
    """Describes installations for Caddy."""

    config_type = CaddyConfig

    def files(self, config: CaddyConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the certificate, the key and, where asked for, the chain; or the one combined file."""
        return pem_files(config, material)

    def commands(self, service: Service) -> ServiceCommands:
        """Return ``caddy validate`` and ``caddy reload --force`` on this service's own configuration."""
        binary = found(service, "binary", BINARIES)
        config = found(service, "config", CONFIGS)
        where = ("--config", config, *(() if config.endswith(".json") else ("--adapter", "caddyfile")))
        address = ("--address", _address(service)) if service.admin else ()
        return ServiceCommands(
            check=Command((binary, "validate", *where)),
            reload=Command((binary, "reload", "--force", *where, *address)),
        )

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path, _runner: Runner
    ) -> StagedCheck:
        """Describe ``caddy validate`` on a configuration that loads only the staged pairs."""
        pairs = [dict(zip(("certificate", "key"), pair_of(files), strict=True)) for files in staged]
        config = {
            "admin": {"disabled": True},
            "storage": {"module": "file_system", "root": f"{scratch}/storage"},
            # Without the second it asks the certificates' OCSP responders, and waits for them.
            "apps": {"tls": {"certificates": {"load_files": pairs}, "disable_ocsp_stapling": True}},
        }
        binary = found(service, "binary", BINARIES)
        command = Command((binary, "validate", "--config", f"{scratch}/caddy.json"))
        return StagedCheck({"caddy.json": msgspec.json.encode(config).decode()}, command)

    def uses_api(self, config: CaddyConfig) -> bool:
        """Say whether the target is of mode ``api``."""
        return config.mode == "api"

    async def apply(self, service: Service, published: Sequence[Mapping[Role, Path]]) -> bool:
        """Make the ``load_pem`` entry of each pair what its files are, and see that it is."""
        async with _admin(service) as admin:
            for files in published:
                certificate, _ = pair_of(files)
                name = f"certctl-{sha256(certificate.encode()).hexdigest()[:16]}"
                await _surely_set_entry(admin, name, await _entry(name, files))
        return True

    def fallback(self, _service: Service) -> None:
        """Return none: the API can do all."""


TARGET = CaddyTarget()


@asynccontextmanager
async def _admin(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """Lend a client of the service's admin API; raise ``Transient`` where that does not answer."""
    address = _address(service)
    socket = address.removeprefix("unix/") if address.startswith("unix/") else None
    # Caddy takes requests that name its address, and on a socket those that name none.
    client = httpx.AsyncClient(
        base_url=f"http://{'caddy' if socket else address}",
        headers={"Host": ""} if socket else {"Host": address, "Origin": f"http://{address}"},
        transport=httpx.AsyncHTTPTransport(uds=socket),
        timeout=_API_TIMEOUT_S,
        trust_env=False,
    )
    try:
        async with client:
            yield client
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
        raise Transient(f"Caddy's admin API at {address} does not answer: {said}; is Caddy running?") from error


async def _entry(name: str, files: Mapping[Role, Path]) -> dict[str, str] | None:
    """Return what ``load_pem`` shall hold for these files, None where there are none."""
    certificate, key = (anyio.Path(path) for path in pair_of(files))
    try:
        return {"@id": name, "certificate": await certificate.read_text(), "key": await key.read_text()}
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Transient(f"{certificate} and its key cannot be read for Caddy's admin API: {error}") from error


async def _surely_set_entry(admin: httpx.AsyncClient, name: str, wanted: dict[str, str] | None) -> None:
    """Set one entry, from the beginning after a request was broken off: Caddy renews its admin API at each change."""
    for _ in range(_TRIES - 1):
        with suppress(*_BROKEN_OFF):
            return await _set_entry(admin, name, wanted)
        await anyio.sleep(_PAUSE_S)
    return await _set_entry(admin, name, wanted)


async def _set_entry(admin: httpx.AsyncClient, name: str, wanted: dict[str, str] | None) -> None:
    """Add, replace or remove one entry; Caddy goes on with its configuration of before when it refuses."""
    known = (await admin.get(f"/id/{name}")).is_success
    if wanted is None:
        if known:
            _accepted(await admin.delete(f"/id/{name}"))
        return
    if known:
        _accepted(await admin.patch(f"/id/{name}", json=wanted))
    else:
        # PUT makes the list and what is above it, and refuses to touch one that is there; POST adds to that.
        made = await admin.put(_LOAD_PEM, json=[wanted])
        _accepted(await admin.post(f"{_LOAD_PEM}/...", json=[wanted]) if "already exists" in made.text else made)
    seen = _accepted(await admin.get(f"/id/{name}"))
    if seen.json() != wanted:
        raise Transient(f"Caddy's admin API shows another certificate for {name} than it was given; who else sets it?")


def _accepted(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        said = " ".join(answer.text.split())[:_MAX_SAID]
        raise Transient(f"Caddy's admin API refused the new certificate with {answer.status_code}: {said}")
    return answer


def _address(service: Service) -> str:
    if not service.admin:
        return "localhost:2019"
    if not _LOCAL.fullmatch(service.admin):
        remedy = "name a loopback address (localhost:2019) or a socket (unix//run/caddy/admin.sock)"
        raise Misconfigured(f"caddy: admin of [services.{service.name}] in agent.toml is not local; {remedy}")
    return service.admin
