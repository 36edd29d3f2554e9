"""What a target connector is: it describes, and the agent's deployment engine acts.

A file-based connector (``FileTarget``) has its files written by the engine; a remote one (``RemoteTarget``) reaches a
place elsewhere and changes it when the engine says so.

A connector says which files hold what, how its daemon checks a configuration and reloads it, and how a staged pair can
be tried before it is live. It changes nothing on a host. Configurations are typed structs whose fields carry help
texts; a field that holds a secret is a ``Secret[str]`` marked as one, see ``core.marking``: it reaches the connector on
the agent's host and nobody else. While a target is checked by the coordinator, a secret that was entered earlier is
stars. Both sides import this module, so no event loop is chosen here.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from connectors.probes.starttls import ProbeProtocol
from connectors.probes.tls import Observation
from core.errors import Misconfigured
from core.names import Name, NameKind
from core.secret import Secret

Role = Literal["certificate", "chain", "key", "combined", "config", "keystore"]
PRIVATE_ROLES: frozenset[Role] = frozenset({"key", "combined", "keystore"})
CONFIG_MARK = b"# Written by certctl"
"""How a file of role ``config`` begins: a small configuration file of certctl's own that names the others."""

Layout = Literal["current", "separate", "combined"]
PublicMode = Literal["0400", "0440", "0444", "0600", "0640", "0644"]
PrivateMode = Literal["0400", "0440", "0600", "0640"]
"""Modes as people write them. A key that everybody may read, or a file that others may write, cannot be asked for."""

CertMode = Annotated[
    PublicMode | None, msgspec.Meta(description="Mode of certificate files; default: the existing file's, or 0644.")
]
KeyMode = Annotated[
    PrivateMode | None,
    msgspec.Meta(description="Mode of files that hold the key; default: the existing file's, or 0600."),
]
Owner = Annotated[
    str | None, msgspec.Meta(description="Owner of the files, name or number; default: the existing file's.")
]
OwningGroup = Annotated[
    str | None, msgspec.Meta(description="Group of the files, name or number; default: the existing file's.")
]

HostName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""The name of a service or an action in the host's own agent.toml."""


class ProbeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the agent looks, over the network, to see which certificate is served."""

    host: Annotated[str, msgspec.Meta(description="Name or address to connect to.", min_length=1, max_length=253)] = (
        "127.0.0.1"
    )
    port: Annotated[int, msgspec.Meta(description="TCP port of the TLS listener.", ge=1, le=65535)] = 443
    sni: Annotated[
        str, msgspec.Meta(description="Server name sent in the handshake; default: the first DNS name.", max_length=253)
    ] = ""
    timeout_s: Annotated[
        float, msgspec.Meta(description="Seconds until the new certificate must be served.", ge=0.2, le=300)
    ] = 10.0
    protocol: Annotated[
        ProbeProtocol,
        msgspec.Meta(description="tls: TLS from the first byte; the others begin in plain text and ask for STARTTLS."),
    ] = "tls"


class FileTargetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every file-based target may be told; connectors add their paths."""

    service: Annotated[HostName, msgspec.Meta(description="Name of the daemon in the host's agent.toml.")]
    validate_action: Annotated[
        HostName | None, msgspec.Meta(description="Named action of agent.toml that checks the live configuration.")
    ] = None
    reload_action: Annotated[
        HostName | None, msgspec.Meta(description="Named action of agent.toml that reloads the daemon.")
    ] = None
    layout: Annotated[
        Layout,
        msgspec.Meta(
            description="current: the paths are links and one rename switches all files together; "
            "separate: plain files; combined: one PEM file with the key and the chain."
        ),
    ] = "current"
    cert_mode: CertMode = None
    key_mode: KeyMode = None
    owner: Owner = None
    group: OwningGroup = None
    probe: Annotated[ProbeConfig, msgspec.Meta(description="Where the served certificate is looked at.")] = (
        ProbeConfig()
    )
    keep: Annotated[int, msgspec.Meta(description="How many earlier versions stay on the host.", ge=0, le=100)] = 3


class RemoteTargetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every target may be told whose certificate lies elsewhere than in files of this host."""

    service: Annotated[HostName, msgspec.Meta(description="Name of the place in the host's agent.toml.")]
    probe: Annotated[
        ProbeConfig | None,
        msgspec.Meta(description="Where the certificate is served; default: nobody looks, it is only stored."),
    ] = None


class SSHFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an agent may log in, as whom, and what it does there: ``[services.NAME.ssh]`` of its agent.toml.

    ``hosts`` are names, or ``name:port`` where the port is not 22. A host's key is known by ``host_keys``, fingerprints
    as ``ssh-keygen -l`` prints them, or by the file ``known_hosts``; with ``first_use`` the first key is written there.
    ``sudo``: files are read and written as root, by ``sudo -n sh``.
    """

    hosts: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    user: Annotated[str, msgspec.Meta(min_length=1)]
    allowed_paths: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    allowed_owners: tuple[str, ...] = ()
    key_file: str = ""
    host_keys: tuple[str, ...] = ()
    known_hosts: str = ""
    first_use: bool = False
    sudo: bool = False
    validate_command: tuple[str, ...] = ()
    reload_command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        for field in ("key_file", "known_hosts"):
            if (path := getattr(self, field)) and not path.startswith("/"):
                raise ValueError(f"{field}: must be an absolute path")
        for prefix in self.allowed_paths:
            if not prefix.startswith("/") or posixpath.normpath(prefix) in {"/", "//"}:
                raise ValueError(f"allowed_paths: {prefix!r} must be an absolute folder below /")
        if bool(self.host_keys) == bool(self.known_hosts):
            raise ValueError("known_hosts: say by which file, or by which host_keys, the host is known; one of them")
        if self.first_use and not self.known_hosts:
            raise ValueError("first_use: has a meaning with known_hosts only")
        for fingerprint in self.host_keys:
            if not fingerprint.startswith("SHA256:"):
                raise ValueError(f"host_keys: {fingerprint!r} must begin with SHA256:, as ssh-keygen -l prints it")


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Facts about one daemon on this host, from its agent.toml; empty fields mean the connector's own defaults."""

    name: HostName
    type: str
    binary: str = ""
    config: str = ""
    prefix: str = ""
    pid_file: str = ""
    admin: str = ""
    context: str = ""
    ssh: SSHFacts | None = None
    validate_action: HostName | None = None
    reload_action: HostName | None = None


class Material(msgspec.Struct, frozen=True):
    """A certificate with its key, each re-encoded from what was parsed and known to belong together.

    ``root_pem`` is empty where the coordinator does not know the root.
    """

    leaf_pem: bytes
    chain_pem: bytes
    key_pem: Secret[bytes]
    fingerprint: str
    root_pem: bytes = b""

    @property
    def full_chain_pem(self) -> bytes:
        """Return leaf and intermediates, leaf first."""
        return self.leaf_pem + self.chain_pem


class FileSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One file that shall exist. ``mode`` None means: the existing file's, else ``default_mode``; owners likewise.

    A file of role ``config`` begins with ``CONFIG_MARK``. In every layout it is a plain file.
    ``merge`` makes the content of one that keeps something of what stands there; it is given None where nothing does,
    and returns what it was given where that will do. It raises ``Permanent`` errors for what cannot be kept.
    """

    role: Role
    path: str
    content: Secret[bytes]
    default_mode: int
    merge: Callable[[Secret[bytes] | None], Secret[bytes]] | None = None
    mode: int | None = None
    owner: str | None = None
    group: str | None = None


class Command(msgspec.Struct, frozen=True):
    """An argv list, run without a shell, and the seconds it may take.

    ``reasons`` says where the program tells why it failed, if it prints nothing.
    """

    argv: tuple[str, ...]
    timeout_s: float = 30.0
    reasons: str = ""


class CommandResult(msgspec.Struct, frozen=True):
    """How a command ended; ``output`` is stdout and stderr together, capped, without private keys."""

    returncode: int
    output: str


class Runner(Protocol):
    """Port: runs commands on this host."""

    async def run(self, command: Command) -> CommandResult:
        """Run to the end; raise ``DeadlineExceeded`` after its timeout, ``Misconfigured`` when it cannot start."""


class Probe(Protocol):
    """Port: looks at a TLS endpoint, see ``connectors.probes.tls.probe``."""

    async def __call__(
        self, host: str, port: int, *, sni: str = "", timeout_s: float = 10.0, protocol: ProbeProtocol = "tls"
    ) -> Observation:
        """Shake hands once; raise ``Transient`` with a human cause when that fails."""


class ServiceCommands(msgspec.Struct, frozen=True):
    """How a daemon checks its live configuration, if it can, and takes a changed certificate into use.

    That is done by ``reload`` or, on the service ``api``, by the connector's ``apply``, with the ``reload`` for what
    that cannot do. With neither the daemon watches its files, so what is published is in use.
    """

    check: Command | None
    reload: Command | None
    api: Service | None = None

    @property
    def watches(self) -> bool:
        """Say whether the daemon takes changed files into use by itself."""
        return self.reload is None and self.api is None


class StagedCheck(msgspec.Struct, frozen=True):
    """A trial of the staged files: text files and links to make in the scratch folder first, then the command.

    It passes when the command ends with 0, or, for a program that cannot, when ``passed`` is among what it says.
    ``command`` None: the connector has tried them itself, and there is nothing to run.
    """

    files: Mapping[str, str]
    command: Command | None
    links: Mapping[str, Path] = {}
    passed: str = ""


ConfigT_contra = TypeVar("ConfigT_contra", bound=FileTargetConfig, contravariant=True)


class FileTarget(Protocol[ConfigT_contra]):
    """A connector whose daemon reads certificates from files."""

    @property
    def config_type(self) -> type[Any]:
        """The struct that a target's ``config`` is decoded into."""

    def files(self, config: ConfigT_contra, material: Material) -> tuple[FileSpec, ...]:
        """Return the files to install; the engine keeps its versions beside the first one.

        They are published in this order, and put back in it: one that a daemon watches comes last, and differs from
        version to version.
        """

    def commands(self, service: Service) -> ServiceCommands | None:
        """Return the built-in live check and reload of this daemon, None where only the host knows them.

        Raises ``Misconfigured`` when the daemon is not found.
        """

    async def staged_check(
        self, service: Service, staged: Sequence[Mapping[Role, Path]], scratch: Path, runner: Runner
    ) -> StagedCheck | None:
        """Describe one trial of all staged pairs that needs no privilege; None where the daemon has no such thing."""


@runtime_checkable
class APITarget(Protocol):
    """A connector that can hand certificates to its daemon by an API, instead of a reload."""

    def uses_api(self, config: Any) -> bool:  # noqa: ANN401 - the connector's own type of configuration
        """Say whether this target's configuration asks for it; reload actions are of no meaning then."""

    async def apply(self, service: Service, published: Sequence[Mapping[Role, Path]]) -> bool:
        """Make the daemon use what is at these paths now, and drop what it had from paths where nothing is.

        Can be repeated. Returns False, with nothing changed, where only a reload can do that, see ``fallback``. Raises
        ``Transient`` when the daemon does not take it.
        """

    def fallback(self, service: Service) -> Command | None:
        """Return the built-in reload for what the API cannot do; None for an API that can do all."""


def signalled(name: str, pid_file: str, program: str) -> Command:
    """Return the command that signals the process of a pid file; a stale number hits no other program."""
    return Command(("/usr/bin/pkill", f"-{name}", "-F", pid_file, program))


def found(service: Service, field: str, candidates: Sequence[str]) -> str:
    """Return the service's ``binary`` or ``config``, else the first candidate that exists; raise ``Misconfigured``."""
    if chosen := str(getattr(service, field)):
        return chosen
    for candidate in candidates:
        if Path(candidate).exists():
            return candidate
    remedy = f"set {field} in [services.{service.name}] of agent.toml"
    raise Misconfigured(f"{service.type}: no {field} at {', '.join(candidates)}; install {service.type} or {remedy}")


class Delivery(msgspec.Struct, frozen=True):
    """What is to be brought to a remote place."""

    certificate_id: str
    material: Material


class RemotePlace(Protocol):
    """Port: one remote place, reached. Each call either succeeds or raises an error that says why not."""

    async def look(self, delivery: Delivery) -> Secret[bytes]:
        """Return what ``put_back`` needs to undo this delivery, JSON; change nothing. Call it first."""

    @property
    def complete(self) -> bool:
        """Say whether the delivery was there already when it was looked at."""

    async def stage(self) -> None:
        """Try as much of the delivery as can be tried while nothing that is in use changes."""

    async def publish(self) -> None:
        """Put the delivery in place, all of it or nothing; raise when what was looked at has changed since."""

    async def check(self) -> None:
        """Read back what is in place; raise unless it is the delivery."""

    async def put_back(self, before: Secret[bytes]) -> str:
        """Undo a delivery that may have been published; can be repeated, needs no ``look``.

        What somebody else has changed since is left alone: the answer then says so, and is empty otherwise.
        """

    async def settle(self) -> None:
        """Remove what was kept for the undo: the delivery has proved itself."""


@runtime_checkable
class ReloadedPlace(Protocol):
    """A remote place whose certificate is taken into use by a reload."""

    async def reload(self) -> None:
        """Make what serves the certificate use what is in place now; can be repeated, needs no ``look``."""


@runtime_checkable
class RemoteTarget(Protocol):
    """A connector whose certificate lies elsewhere: it reaches places, and the engine says when they change."""

    @property
    def config_type(self) -> type[Any]:
        """The struct that a target's ``config`` is decoded into."""

    def place(self, config: Any) -> str:  # noqa: ANN401 - the connector's own configuration
        """Return a name of the place below its service: deliveries to the same place wait for each other."""

    def reach(self, service: Service, config: Any) -> AbstractAsyncContextManager[RemotePlace]:  # noqa: ANN401
        """Connect, with what the host knows of the service."""


def parse_mode(mode: str | None) -> int | None:
    """Return an octal mode text as a number."""
    return None if mode is None else int(mode, 8)


def default_sni(names: Sequence[Name]) -> str:
    """Return the first DNS name; of a wildcard a name below it, since nobody asks a server for ``*``."""
    for name in names:
        if name.kind is NameKind.DNS:
            return name.value.replace("*", "certctl-probe", 1)
    return ""
