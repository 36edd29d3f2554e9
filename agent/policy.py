"""The host's own rules: what a coordinator may ask of this agent, whatever happens to the coordinator.

Read at the start and on SIGHUP from ``/etc/certctl/agent.toml`` (``CERTCTL_AGENT_CONFIG`` names another file), which
belongs to root or to the agent's own user and which nobody else may write. The coordinator sends names of services and
actions, and paths of files; what the names mean and where files may be written is decided here. An example with all
there is to say:

    # Folders below which certificate and key files may be written, with the links in them resolved.
    # Default: ["/etc/ssl/certctl", "/etc/nginx/certctl", "/etc/certctl/live"]
    allowed_paths = ["/etc/nginx/certctl", "/etc/ssl/certctl"]

    # Types of target that this host takes. Default: every type this agent knows.
    allowed_target_types = ["nginx", "files"]

    # Whether private keys that the coordinator made are used (its CERTCTL_KEYGEN_MODE=server). For demonstrations:
    # whoever has such a coordinator has the keys. Default: false, the agent then makes its own all the same.
    accept_coordinator_keys = false

    # Users and groups, by name or number, that installed files may be given to. Default: none, so that files keep the
    # owner of those they replace, or belong to the agent's user.
    allowed_owners = ["www-data"]

    # Where answers to ACME challenges are shown, while there are some. On a host whose ports 80 and 443 belong to a web
    # server, that hands them on to an address of this host; docs/acme-issuer.md has the few lines for each server.
    [challenges]
    http = "127.0.0.1:8402"             # http-01; default: ":80", port 80 of all addresses
    tls = "127.0.0.1:8403"              # tls-alpn-01; default: ":443"
    allowed_names = ["*.example.com"]   # names that are answered for, as patterns; default: all. Whoever has the
                                        # coordinator can have certificates of these names issued to themselves.

    # Whether this agent looks at challenges of the coordinator's ACME clients from where it stands, and where that may
    # lead: private networks and addresses of this host only where they are named. See docs/acme-server.md.
    [perspective]
    enabled = true                      # default: false
    allowed_networks = ["10.20.0.0/16"] # default: none. Whoever has the coordinator can have hosts there asked for
                                        # /.well-known/acme-challenge/… at these two ports, and see 200 characters.
    resolvers = ["192.0.2.53"]          # default: those of the system
    http_port = 80                      # the defaults; other ports are for tests and closed networks
    tls_port = 443

    # A daemon that is named like its type needs no entry; its connector then looks in the usual places.
    [services.nginx]
    type = "nginx"
    binary = "/usr/sbin/nginx"
    config = "/etc/nginx/nginx.conf"
    prefix = "/usr/share/nginx"         # nginx -p; default: the one that was compiled in
    reload_action = "reload-nginx"      # instead of the connector's own `nginx -s reload`

    # Where Caddy's admin API is, if not at localhost:2019: another loopback address or a socket.
    [services.caddy]
    type = "caddy"
    admin = "unix//run/caddy/admin.sock"

    # An HAProxy whose certificates are changed over its stats socket (level admin); both are the defaults.
    [services.haproxy]
    type = "haproxy"
    admin = "/run/haproxy/admin.sock"
    pid_file = "/run/haproxy.pid"       # of the master process, for a reload

    # A daemon without a connector of its own. Without a validate_action its configuration is not checked.
    [services.mail]
    type = "files"
    validate_action = "check-mail"
    reload_action = "reload-mail"

    # A cluster. Without an entry it is the one whose pod this agent runs in.
    [services.kubernetes]
    type = "kubernetes"
    config = "/etc/certctl/kubeconfig"
    context = "production"              # default: the kubeconfig's current one

    # Another host that this agent may log in at by SSH. Nothing is known without such an entry.
    [services.web-7]
    type = "ssh"

    [services.web-7.ssh]
    hosts = ["web-7.example.test"]      # or "web-7.example.test:2222"
    user = "certctl"
    key_file = "/etc/certctl/ssh/id_ed25519"        # default: the target brings a sealed key or password
    known_hosts = "/etc/certctl/ssh/known_hosts"    # or host_keys = ["SHA256:…"] instead
    first_use = false                               # true: the first key that a host shows is written there
    allowed_paths = ["/etc/nginx/certctl"]          # on that host, as are the following
    allowed_owners = ["www-data"]                   # default: none
    sudo = false                                    # true: files are read and written by sudo -n sh
    validate_command = ["/usr/bin/sudo", "-n", "/usr/sbin/nginx", "-t"]
    reload_command = ["/usr/bin/sudo", "-n", "/usr/bin/systemctl", "reload", "nginx"]

    # Commands, run as the agent's user: the program's absolute path and its arguments, without a shell.
    # A service names them above; a target may name one instead.
    [actions.reload-nginx]
    argv = ["/usr/bin/sudo", "-n", "/usr/bin/systemctl", "reload", "nginx"]
    timeout_s = 60                      # default: 30, at most 3600

    [actions.check-mail]
    argv = ["/usr/bin/doveconf", "-n"]

    [actions.reload-mail]
    argv = ["/usr/bin/sudo", "-n", "/usr/bin/systemctl", "reload", "dovecot"]

Without the file the defaults hold: files below the three folders above, every type, no actions, and only services that
are named like their type. A file with a mistake stops the start, with the key at fault; on SIGHUP it changes nothing.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from connectors.targets import registry
from connectors.targets.base import Command, Service
from core.decoding import wrong_field
from core.environment import parse_resolver
from core.errors import InvalidInput, Misconfigured, Refused
from core.names import Name
from core.patterns import check_pattern, matches

DEFAULT_PATH = Path("/etc/certctl/agent.toml")
DEFAULT_ALLOWED_PATHS = ("/etc/ssl/certctl", "/etc/nginx/certctl", "/etc/certctl/live")

STORE_FOLDER = ".certctl"
"""The folder beside installed files that holds their versions; no configured path may lie in one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_BYTES = 1 << 20

T = TypeVar("T")


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command that a target may name."""

    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0


_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]*)):(\d{1,5})")
_MOST_PORT = 65535


class Challenges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where answers to ACME challenges are shown while there are some: ``address:port``, or ``:port`` for all.

    ``allowed_names`` are patterns of the names that are answered for; none are without any.
    """

    http: str = ":80"
    tls: str = ":443"
    allowed_names: tuple[str, ...] = ("**", "0.0.0.0/0", "::/0")

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        for field, text in (("http", self.http), ("tls", self.tls)):
            found = _ADDRESS.fullmatch(text)
            if found is None or not 0 < int(found[3]) <= _MOST_PORT:
                raise ValueError(f"{field}: is no address with a port, such as 127.0.0.1:8402 or :80")
        for pattern in self.allowed_names:
            try:
                check_pattern(pattern, field="allowed_names")
            except InvalidInput as error:
                raise ValueError(f"allowed_names: {error.errors[0].problem}") from error

    def allow(self, name: Name) -> bool:
        """Say whether challenges for a name are answered here."""
        return any(matches(name, pattern) for pattern in self.allowed_names)

    @staticmethod
    def parts(address: str) -> tuple[str | None, int]:
        """Return host, None for all, and port of one of them."""
        found = _ADDRESS.fullmatch(address)
        assert found is not None  # noqa: S101 - it was looked at when it was read
        return found[1] or found[2] or None, int(found[3])


class Perspective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether this agent looks at challenges of ACME clients, and where that may lead.

    Loopback, link-local, private and reserved addresses are dialled in ``allowed_networks`` only, metadata services of
    clouds never. Without ``resolvers`` the system's are asked.
    """

    enabled: bool = False
    allowed_networks: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    http_port: Annotated[int, msgspec.Meta(ge=1, le=_MOST_PORT)] = 80
    tls_port: Annotated[int, msgspec.Meta(ge=1, le=_MOST_PORT)] = 443

    def __post_init__(self) -> None:
        """Refuse what is no network or no address."""
        try:
            _ = self.networks
        except ValueError as error:
            raise ValueError(f"allowed_networks: {error}; write networks like 10.0.0.0/8") from error
        try:
            _ = self.servers
        except ValueError as error:
            raise ValueError(f"resolvers: {error}") from error

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Return the allowed networks."""
        return tuple(map(ip_network, self.allowed_networks))

    @property
    def servers(self) -> tuple[tuple[str, int], ...]:
        """Return addresses and ports of the resolvers."""
        return tuple(map(parse_resolver, self.resolvers))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    allowed_paths: tuple[str, ...] = DEFAULT_ALLOWED_PATHS
    allowed_target_types: tuple[str, ...] | None = None
    allowed_owners: tuple[str, ...] = ()
    accept_coordinator_keys: bool = False
    challenges: Challenges = Challenges()
    perspective: Perspective = Perspective()
    actions: dict[str, Any] = {}
    services: dict[str, Any] = {}


class HostPolicy(msgspec.Struct, frozen=True):
    """The rules in force. ``source`` is the file they come from, or would come from; it is named in refusals."""

    source: Path = DEFAULT_PATH
    allowed_paths: tuple[str, ...] = DEFAULT_ALLOWED_PATHS
    allowed_target_types: tuple[str, ...] | None = None
    allowed_owners: tuple[str, ...] = ()
    accept_coordinator_keys: bool = False
    challenges: Challenges = Challenges()
    perspective: Perspective = Perspective()
    actions: dict[str, Action] = {}
    services: dict[str, Service] = {}

    def check_type(self, type_name: str) -> None:
        """Raise ``Refused`` unless targets of this type may be deployed to on this host."""
        if self.allowed_target_types is not None and type_name not in self.allowed_target_types:
            remedy = f"add {_quoted(type_name)} to allowed_target_types in {self.source}"
            raise Refused(f"this host takes no targets of type {type_name!r}; to allow it, {remedy}")

    def check_owner(self, name: str | None, *, field: str) -> None:
        """Raise ``Refused`` unless files may be given to this user or group: a key given away is a key read."""
        if name is not None and name not in self.allowed_owners:
            remedy = f"add {_quoted(name[:100])} to allowed_owners in {self.source}"
            raise Refused(f"{field}: this host gives no files to {name[:100]!r}; to allow it, {remedy}")

    def check_path(self, path: str, *, field: str = "path") -> Path:
        """Return ``path`` with the links of its folder resolved, if a file may be written there.

        The last component is not followed, because the engine replaces it and never writes through it. Raises
        ``InvalidInput`` for what is no plain absolute path, ``Refused`` for a place outside the allowed prefixes.
        """
        _check_spelling(path, field)
        real = Path(os.path.realpath(Path(path).parent)) / Path(path).name
        if not any(real.parent.is_relative_to(os.path.realpath(prefix)) for prefix in self.allowed_paths):
            leads = "" if str(real) == path else f", which leads to {real},"
            remedy = f"add {_quoted(str(real.parent))} to allowed_paths in {self.source}"
            raise Refused(f"{field}: {path}{leads} is outside the allowed folders of this host; to allow it, {remedy}")
        _check_folder(real.parent, field)
        return real

    def action(self, name: str) -> Command:
        """Return the command that this host calls ``name``; raise ``Refused`` when there is none."""
        if name not in self.actions:
            remedy = f'add a table [actions.{name}] with argv = ["/absolute/program", …] to {self.source}'
            raise Refused(f"this host has no action {name!r}; {remedy}")
        return Command(self.actions[name].argv, self.actions[name].timeout_s)

    def service(self, type_name: str, name: str) -> Service:
        """Return the facts about a daemon. A service that is named like its type exists without an entry."""
        service = self.services.get(name)
        if service is None and name == type_name:
            return Service(name=name, type=type_name)
        if service is None:
            remedy = f"add a table [services.{name}] with type = {_quoted(type_name)} and its config to {self.source}"
            raise Refused(f"this host has no service {name!r}; {remedy}")
        if service.type != type_name:
            raise Refused(f"service {name!r} in {self.source} is of type {service.type!r}, the target {type_name!r}")
        return service

    def without_reload(self, service: Service) -> str:
        """Say which lines are missing for a service that nothing here can reload."""
        action = f"reload-{service.name}"
        return (
            f"this host does not say how service {service.name!r} is reloaded; add to {self.source}: "
            f"[services.{service.name}] with type = {_quoted(service.type)} and reload_action = {_quoted(action)}, "
            f'and [actions.{action}] with argv = ["/absolute/program", …]'
        )


def load_policy(path: Path = DEFAULT_PATH, *, required: bool = False) -> HostPolicy:
    """Read the rules; the defaults when the file is absent and not ``required``.

    Raises ``Misconfigured`` naming file, key and remedy, also for a file that others could have written.
    """
    try:
        text = _read_trusted(path)
    except FileNotFoundError as error:
        if required:
            raise Misconfigured(f"{path} does not exist; create it or unset CERTCTL_AGENT_CONFIG") from error
        return HostPolicy(source=path)
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{path} is not valid TOML: {error}") from error
    return _from_toml(raw, path)


def _read_trusted(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise Misconfigured(f"{path} is not a regular file")
        if facts.st_uid not in {0, os.geteuid()} or facts.st_mode & 0o022:
            remedy = f"run: chown root {path} && chmod go-w {path}"
            raise Misconfigured(f"{path} could have been changed by other users, so it is not trusted; {remedy}")
        return os.read(descriptor, _MAX_BYTES).decode()
    finally:
        os.close(descriptor)


def _from_toml(raw: dict[str, Any], path: Path) -> HostPolicy:
    file = _convert(raw, _File, path, "")
    for prefix in file.allowed_paths:
        if not prefix.startswith("/") or os.path.normpath(prefix) == "/":
            raise Misconfigured(f"{path}: allowed_paths: {prefix!r} must be an absolute folder below /")
    policy = HostPolicy(
        source=path,
        allowed_paths=file.allowed_paths,
        allowed_target_types=file.allowed_target_types,
        allowed_owners=file.allowed_owners,
        accept_coordinator_keys=file.accept_coordinator_keys,
        challenges=file.challenges,
        perspective=file.perspective,
        actions={name: _action(name, value, path) for name, value in file.actions.items()},
        services={name: _service(name, value, path) for name, value in file.services.items()},
    )
    _check_references(policy)
    return policy


def _action(name: str, value: object, path: Path) -> Action:
    _check_name(name, path, "actions")
    action = _convert(value, Action, path, f"actions.{name}")
    if not action.argv[0].startswith("/") or any("\0" in word for word in action.argv):
        problem = "must start with the absolute path of a program"
        raise Misconfigured(f"{path}: actions.{name}.argv: {problem}, for instance /usr/sbin/nginx")
    return action


def _service(name: str, value: object, path: Path) -> Service:
    _check_name(name, path, "services")
    if not isinstance(value, dict) or "name" in value:
        raise Misconfigured(f"{path}: services.{name}: must be a table without a key 'name'; the header names it")
    service = _convert({**value, "name": name}, Service, path, f"services.{name}")
    for field in ("binary", "config", "prefix", "pid_file"):
        if (text := getattr(service, field)) and (not text.startswith("/") or "\0" in text):
            raise Misconfigured(f"{path}: services.{name}.{field}: {text!r} must be an absolute path")
    return service


def _check_references(policy: HostPolicy) -> None:
    known = registry.known_types()
    for name, service in policy.services.items():
        if service.type not in known:
            problem = f"unknown target type {service.type!r}; known are {', '.join(known)}"
            raise Misconfigured(f"{policy.source}: services.{name}.type: {problem}")
        for field in ("validate_action", "reload_action"):
            action = getattr(service, field)
            if action is not None and action not in policy.actions:
                problem = f"no action {action!r} in this file; add [actions.{action}]"
                raise Misconfigured(f"{policy.source}: services.{name}.{field}: {problem}")
    for type_name in policy.allowed_target_types or ():
        if type_name not in known:
            problem = f"unknown target type {type_name!r}; known are {', '.join(known)}"
            raise Misconfigured(f"{policy.source}: allowed_target_types: {problem}")


def _convert(raw: object, into: type[T], path: Path, key: str) -> T:
    try:
        return msgspec.convert(raw, into)
    except msgspec.ValidationError as error:
        wrong = wrong_field(error, key)
        raise Misconfigured(f"{path}: {wrong.field}: {wrong.problem}") from error


def _check_name(name: str, path: Path, table: str) -> None:
    if not _NAME.fullmatch(name):
        raise Misconfigured(f"{path}: {table}.{name}: the name must be 1 to 64 of letters, digits, '.', '_' and '-'")


def _check_spelling(path: str, field: str) -> None:
    if not path.startswith("/") or os.path.normpath(path) != path or path.startswith("//"):
        raise InvalidInput.of(field, f"{path[:200]!r} must be an absolute path without '..', '.', '//' or a final '/'")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):  # noqa: PLR2004 - control characters
        raise InvalidInput.of(field, f"{path[:200]!r} holds a control character")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise InvalidInput.of(field, f"{path[:200]!r} cannot be a file name on this host") from error


def _check_folder(folder: Path, field: str) -> None:
    if STORE_FOLDER in folder.parts:
        raise Refused(f"{field}: {folder} holds certctl's own versions; choose the folder above {STORE_FOLDER}")
    try:
        mode = folder.stat().st_mode
    except OSError:
        return  # A folder that is missing is made later; one that cannot be entered is explained then.
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Refused(f"{field}: every user may write in {folder}; run: chmod o-w {folder}")


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
