"""ssh: PEM files on another host, written over SSH by an agent that may log in there.

For hosts without an agent of their own. Where an agent may log in, as whom, below which folders it may write and which
commands it runs there says its own agent.toml alone (``SSHFacts``). Files are staged beside their paths and renamed;
what they held before is the engine's to keep until the new certificate was seen served.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import anyio
import msgspec

from connectors.targets.base import (
    CertMode,
    Delivery,
    FileSpec,
    HostName,
    KeyMode,
    Owner,
    OwningGroup,
    ProbeConfig,
    RemoteTargetConfig,
    Service,
    SSHFacts,
)
from connectors.targets.pem import PEMConfig, pem_files
from core.errors import DeadlineExceeded, InvalidInput, Refused, Transient
from core.secret import Secret

if TYPE_CHECKING:
    from connectors.ssh import Files, Session, Standing

T = TypeVar("T")

_STAGED = ".certctl-new"
_CALLS = 8
"""How many answers, each with its own patience, one step may wait for."""
_PEM = re.compile(rb"^-----BEGIN (?:[A-Z0-9 ]+ )?(?:CERTIFICATE|PRIVATE KEY)-----", re.MULTILINE)
_SECRET = {"secret": True}


class SSHProbe(ProbeConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the agent looks, from its own host."""

    host: Annotated[str, msgspec.Meta(description="Name or address to connect to; default: host.", max_length=253)] = ""


class SSHConfig(RemoteTargetConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which host, how to log in, and which files a daemon reads there."""

    service: Annotated[HostName, msgspec.Meta(description="Name of the host's entry in the agent's agent.toml.")]
    host: Annotated[str, msgspec.Meta(description="Name or address to log in at.", min_length=1, max_length=253)]
    port: Annotated[int, msgspec.Meta(description="TCP port of the SSH server.", ge=1, le=65535)] = 22
    password: Annotated[
        Secret[str] | None,
        msgspec.Meta(description="Password of the user, instead of a key.", extra_json_schema=_SECRET),
    ] = None
    private_key: Annotated[
        Secret[str] | None,
        msgspec.Meta(description="Key to log in with; default: the key_file of agent.toml.", extra_json_schema=_SECRET),
    ] = None
    passphrase: Annotated[
        Secret[str] | None, msgspec.Meta(description="Passphrase of the key.", extra_json_schema=_SECRET)
    ] = None
    cert_path: Annotated[str, msgspec.Meta(description="File with leaf and chain on that host.", max_length=4000)]
    key_path: Annotated[
        str | None, msgspec.Meta(description="File with the key; required unless layout is combined.")
    ] = None
    chain_path: Annotated[str | None, msgspec.Meta(description="File with the chain alone.")] = None
    layout: Annotated[
        Literal["separate", "combined"],
        msgspec.Meta(description="separate: a file each; combined: one PEM file with the key and the chain."),
    ] = "separate"
    cert_mode: CertMode = None
    key_mode: KeyMode = None
    owner: Owner = None
    group: OwningGroup = None
    timeout_s: Annotated[
        float, msgspec.Meta(description="Seconds within which the host must answer each time.", ge=1, le=600)
    ] = 30.0
    probe: Annotated[
        SSHProbe | None,
        msgspec.Meta(description="Where the certificate is served; null: nobody looks, it is only stored."),
    ] = SSHProbe()

    def __post_init__(self) -> None:
        """Hold the fields against each other; a probe without a host looks at this one."""
        as_files(self)
        for field in ("cert_path", "key_path", "chain_path"):
            path = getattr(self, field)
            if path is not None and (posixpath.normpath(path) != path or not path.isprintable()):
                raise ValueError(f"{field}: must be a plain path without '..', '.', '//' or a final '/'")
        if self.password is not None and self.private_key is not None:
            raise ValueError("password: is not used with private_key; choose one")
        if self.probe is not None and not self.probe.host:
            msgspec.structs.force_setattr(self, "probe", msgspec.structs.replace(self.probe, host=self.host))


def as_files(config: SSHConfig) -> PEMConfig:
    """Return which file holds what."""
    return PEMConfig(
        service=config.service,
        layout=config.layout,
        cert_path=config.cert_path,
        key_path=config.key_path,
        chain_path=config.chain_path,
        cert_mode=config.cert_mode,
        key_mode=config.key_mode,
        owner=config.owner,
        group=config.group,
    )


class SSHTarget:
    """Reaches hosts."""

    config_type = SSHConfig

    def place(self, config: SSHConfig) -> str:
        """Return host and port."""
        return f"{config.host}:{config.port}"

    @asynccontextmanager
    async def reach(self, service: Service, config: SSHConfig) -> AsyncIterator[RemoteFiles]:
        """Log in, if agent.toml says that this agent may."""
        from connectors.ssh import Login, Session  # noqa: PLC0415 - not installed with a coordinator

        facts = allowed(service, config)
        session = Session(
            Login(
                host=config.host,
                port=config.port,
                facts=facts,
                password=config.password,
                private_key=config.private_key,
                passphrase=config.passphrase,
                timeout_s=config.timeout_s,
            )
        )
        try:
            await _in_thread(session.open, session)
            yield RemoteFiles(session, await _in_thread(session.files, session), config, facts)
        finally:
            session.close()


TARGET = SSHTarget()


def allowed(service: Service, config: SSHConfig) -> SSHFacts:
    """Return what agent.toml says of the host; raise ``Refused`` for one it does not name, or for its paths."""
    table = f"[services.{service.name}.ssh] of agent.toml"
    facts = service.ssh
    if facts is None:
        remedy = f"add {table} with hosts, user, allowed_paths and known_hosts"
        raise Refused(f"this agent does not know how to log in for {service.name!r}; {remedy}")
    named = config.host if config.port == 22 else f"{config.host}:{config.port}"  # noqa: PLR2004 - the default
    if named not in facts.hosts:
        raise Refused(f"config.host: this agent may not log in at {named}; to allow it, add it to hosts in {table}")
    for field in ("owner", "group"):
        if (name := getattr(config, field)) is not None and name not in facts.allowed_owners:
            raise Refused(f"config.{field}: no files are given to {name!r}; add it to allowed_owners in {table}")
    for field in ("cert_path", "key_path", "chain_path"):
        path = getattr(config, field)
        if path is not None and not _below(posixpath.dirname(path), facts.allowed_paths):
            raise Refused(f"config.{field}: {path} is outside allowed_paths in {table}; add its folder there")
    return facts


class Old(msgspec.Struct, frozen=True):
    """One path: what stood there, None for nothing, and what identifies the content that is to come."""

    path: str
    content: bytes | None
    mode: int
    uid: int
    gid: int
    new: str


class RemoteFiles:
    """The files of one target on their way."""

    def __init__(self, session: Session, files: Files, config: SSHConfig, facts: SSHFacts) -> None:
        self._session, self._files, self._config, self._facts = session, files, config, facts
        self._wanted: list[tuple[str, Standing]] = []
        self._before: list[Old] = []

    async def look(self, delivery: Delivery) -> Secret[bytes]:
        """Return what stands at the paths; raise ``Refused`` for what is no certificate or key."""
        await self._do(self._look, delivery)
        return Secret(msgspec.json.encode(self._before))

    @property
    def complete(self) -> bool:
        """Say whether every file was there as wanted."""
        return all(
            (old.content, old.mode, old.uid, old.gid) == _fields(new, old)
            for old, (_, new) in zip(self._before, self._wanted, strict=True)
        )

    async def stage(self) -> None:
        """Write the files beside their paths."""
        await self._do(self._stage)

    async def publish(self) -> None:
        """Rename them into place, if what stood there still is what was looked at."""
        await self._do(self._publish)

    async def check(self) -> None:
        """Read them back, and let the daemon check its configuration."""
        await self._do(self._check)

    async def reload(self) -> None:
        """Run the host's reload command; where there is none, the daemon watches its files."""
        if self._facts.reload_command:
            await self._do(self._run, self._facts.reload_command, "the reload failed")

    async def put_back(self, before: Secret[bytes]) -> str:
        """Put the old files back, the last one first; say which were changed by somebody else meanwhile."""
        return await self._do(self._put_back, msgspec.json.decode(before.reveal(), type=list[Old]))

    async def settle(self) -> None:
        """Do nothing: nothing was kept there."""

    async def _do(self, function: Callable[..., T], *args: object) -> T:
        return await _in_thread(function, self._session, *args)

    # --- in a thread -------------------------------------------------------------------------------------------------

    def _look(self, delivery: Delivery) -> None:
        for spec in pem_files(as_files(self._config), delivery.material):
            self._check_place(spec.path)
            there = self._files.read(spec.path)
            if there is not None and there.content.strip() and not _PEM.search(there.content):
                problem = "holds no PEM certificate or key and will not be replaced"
                raise Refused(f"{spec.path} on {self._session.login} {problem}; choose another path")
            new = self._new(spec, there)
            self._wanted.append((spec.path, new))
            digest = _digest(new.content)
            if there is None:
                self._before.append(Old(spec.path, None, 0, -1, -1, digest))
            else:
                self._before.append(Old(spec.path, there.content, there.mode, there.uid, there.gid, digest))

    def _check_place(self, path: str) -> None:
        """Links of the host's own may lead out of the folders that are allowed."""
        folder = self._files.real(posixpath.dirname(path))
        allowed_folders = [self._files.real(prefix) for prefix in self._facts.allowed_paths if _is_prefix(prefix, path)]
        if not _below(folder, allowed_folders):
            raise Refused(f"{path} on {self._session.login} leads to {folder}, outside its allowed_paths")

    def _new(self, spec: FileSpec, there: Standing | None) -> Standing:
        from connectors.ssh import Standing  # noqa: PLC0415 - not installed with a coordinator

        mode = spec.mode if spec.mode is not None else there.mode if there else spec.default_mode
        if spec.role in {"key", "combined"}:
            mode &= ~0o037
        uid = self._number(spec.owner, "passwd", "owner") if spec.owner else there.uid if there else -1
        gid = self._number(spec.group, "group", "group") if spec.group else there.gid if there else -1
        return Standing(spec.content.reveal(), mode, uid, gid)

    def _number(self, name: str, table: str, field: str) -> int:
        if name.isdecimal():
            return int(name)
        status, out, _ = self._session.run(("getent", table, name))
        entry = out.split(b":")
        if status or len(entry) < 3 or not entry[2].strip().isdigit():  # noqa: PLR2004 - name, password, number
            raise InvalidInput.of(f"config.{field}", f"{self._session.login} knows no {name!r}; make it there")
        return int(entry[2])

    def _stage(self) -> None:
        try:
            for path, file in self._wanted:
                self._files.write(staged(path), file)
        except BaseException:
            for path, _ in self._wanted:
                self._files.remove(staged(path))
            raise

    def _publish(self) -> None:
        for old in self._before:
            there = self._files.read(old.path)
            if (there.content if there else None) != old.content:
                raise Transient(f"{old.path} on {self._session.login} was changed while its new version was on its way")
        for path, _ in self._wanted:
            self._files.rename(staged(path), path)

    def _check(self) -> None:
        for path, file in self._wanted:
            there = self._files.read(path)
            if there is None or there.content != file.content:
                raise Transient(f"{path} on {self._session.login}: it was written, then something else stood there")
        if self._facts.validate_command:
            self._run(self._facts.validate_command, "the live configuration does not pass its check")

    def _put_back(self, before: list[Old]) -> str:
        from connectors.ssh import Standing  # noqa: PLC0415 - not installed with a coordinator

        left_alone = []
        for old in reversed(before):
            there = self._files.read(old.path)
            self._files.remove(staged(old.path))
            if there is None:
                if old.content is not None:
                    left_alone.append(f"{old.path} was removed meanwhile, and stays so")
            elif (there.content, there.mode, there.uid, there.gid) == (old.content, old.mode, old.uid, old.gid):
                continue
            elif there.content != old.content and _digest(there.content) != old.new:
                left_alone.append(f"{old.path} was changed meanwhile, and stays so")
            elif old.content is None:
                self._files.remove(old.path)
            else:
                self._files.write(staged(old.path), Standing(old.content, old.mode, old.uid, old.gid))
                self._files.rename(staged(old.path), old.path)
        return "; ".join(left_alone)

    def _run(self, argv: tuple[str, ...], problem: str) -> None:
        from connectors.ssh import shown  # noqa: PLC0415 - not installed with a coordinator

        status, out, said = self._session.run(argv)
        if status:
            words = f"{shown(out)} {said}".strip() or "(it printed nothing)"
            where = f"`{' '.join(argv)}` on {self._session.login}"
            raise Transient(f"{problem}: {where} ended with {status}: {words}")


def staged(path: str) -> str:
    """Return where a file stands before it is renamed: in its own folder."""
    return posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}{_STAGED}")


async def _in_thread(function: Callable[..., T], session: Session, *args: object) -> T:
    """Run what blocks; when it hangs all the same, hang up, which ends it."""
    limit_s = _CALLS * session.login.timeout_s
    try:
        with anyio.fail_after(limit_s):
            return await anyio.to_thread.run_sync(lambda: function(*args), abandon_on_cancel=True)
    except TimeoutError as error:
        session.close()
        raise DeadlineExceeded(f"{session.login}: not done within {limit_s:g} s") from error


def _fields(new: Standing, old: Old) -> tuple[bytes, int, int, int]:
    return new.content, new.mode, old.uid if new.uid == -1 else new.uid, old.gid if new.gid == -1 else new.gid


def _below(folder: str, prefixes: tuple[str, ...] | list[str]) -> bool:
    return any(folder == prefix or folder.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)


def _is_prefix(prefix: str, path: str) -> bool:
    return _below(posixpath.dirname(path), (prefix,))


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()
