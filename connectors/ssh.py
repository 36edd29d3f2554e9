"""SSH: a login on a host whose key is known, commands there, and files by SFTP or, where that is missing, by a shell.

Everything here blocks, with a deadline, and belongs into worker threads. Errors name the host and the remedy.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import paramiko
from paramiko.sftp import CMD_EXTENDED, CMD_OPEN, SFTP_FLAG_CREATE, SFTP_FLAG_EXCL, SFTP_FLAG_WRITE

from connectors.targets.base import SSHFacts
from core.errors import CertctlError, DeadlineExceeded, Misconfigured, Refused, Transient
from core.secret import Secret

MAX_BYTES = 1 << 20
_MAX_OUTPUT = 16 * 1024
_OUTDATED = {
    "macs": ["hmac-sha1", "hmac-sha1-96", "hmac-md5", "hmac-md5-96"],
    "ciphers": ["aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"],
    "kex": ["diffie-hellman-group1-sha1", "diffie-hellman-group14-sha1", "diffie-hellman-group-exchange-sha1"],
    "keys": ["ssh-rsa", "ssh-dss"],
    "pubkeys": ["ssh-rsa", "ssh-dss"],
}
"""What Paramiko offers by default, or did in earlier versions, and nobody should."""
_KEY_TYPES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_SUDO = ("sudo", "-n")
_ABSENT, _NO_FILE = 44, 45

_READ = (
    f'if [ -L "$1" ]; then exit {_NO_FILE}; elif [ ! -e "$1" ]; then exit {_ABSENT}; '
    f'elif [ ! -f "$1" ]; then exit {_NO_FILE}; fi; stat -c "%a %u %g" "$1" && exec cat "$1"'
)
_REAL = f'cd "$1" 2> /dev/null || exit {_ABSENT}; exec pwd -P'
_WRITE = (
    'umask 077; rm -f "$1" && set -C && cat > "$1" && if [ "$3" != -1:-1 ]; then chown "$3" "$1"; fi '
    '&& chmod "$2" "$1" && sync "$1"'
)


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Where to log in and how; ``timeout_s`` is the patience with each answer of the host."""

    host: str
    port: int
    facts: SSHFacts
    password: Secret[str] | None
    private_key: Secret[str] | None
    passphrase: Secret[str] | None
    timeout_s: float

    def __str__(self) -> str:
        """Return user, host and port."""
        return f"{self.facts.user}@{self.host}:{self.port}"


class Standing(msgspec.Struct, frozen=True):
    """A file: its content, its mode, and whom it belongs to, by number."""

    content: bytes
    mode: int
    uid: int
    gid: int


class Files(Protocol):
    """Files of a host. Paths are absolute."""

    def read(self, path: str) -> Standing | None:
        """Return the file, None where nothing is; raise ``Refused`` for what is no plain file."""

    def write(self, path: str, file: Standing) -> None:
        """Write a new file, durably where the host can; nobody else can read it before it has its owner."""

    def rename(self, path: str, to: str) -> None:
        """Put a file at ``to`` at once, in place of what is there."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""

    def real(self, folder: str) -> str:
        """Return a folder with its links resolved."""


class Session:
    """A connection that was let in."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self._client = paramiko.SSHClient()

    def open(self) -> None:
        """Connect, hold the host's key against what is known, and log in."""
        login, facts = self.login, self.login.facts
        pkey = _private_key(login)
        if facts.known_hosts and Path(facts.known_hosts).exists():
            with self._explained():
                self._client.load_host_keys(facts.known_hosts)
        self._client.set_missing_host_key_policy(_Unknown(login))
        with self._explained():
            self._client.connect(
                login.host,
                login.port,
                facts.user,
                password=login.password.reveal() if login.password else None,
                pkey=pkey,
                allow_agent=False,
                look_for_keys=False,
                timeout=login.timeout_s,
                banner_timeout=login.timeout_s,
                auth_timeout=login.timeout_s,
                channel_timeout=login.timeout_s,
                disabled_algorithms=_OUTDATED,
            )

    def close(self) -> None:
        """Hang up; whoever waits for an answer is told so."""
        self._client.close()

    def files(self) -> Files:
        """Return the host's files: by SFTP, or by a shell where there is no SFTP or root is needed."""
        if self.login.facts.sudo:
            return ShellFiles(self, _SUDO)
        try:
            sftp = self._client.open_sftp()
        except (paramiko.SSHException, EOFError):
            return ShellFiles(self)
        channel = sftp.get_channel()
        if channel is not None:
            channel.settimeout(self.login.timeout_s)
        return SFTPFiles(self, sftp)

    def run(self, argv: tuple[str, ...], stdin: bytes = b"") -> tuple[int, bytes, str]:
        """Run a command to its end; return its status, stdout, and stderr for people. Every word is quoted."""
        deadline = time.monotonic() + self.login.timeout_s
        with self._explained(f"`{shlex.join(argv)}`"):
            transport = self._client.get_transport()
            if transport is None:
                raise EOFError
            with transport.open_session(timeout=self.login.timeout_s) as channel:
                channel.settimeout(self.login.timeout_s)
                channel.exec_command(shlex.join(argv))
                channel.sendall(stdin)
                channel.shutdown_write()
                out = _all(channel, deadline)
                with channel.makefile_stderr("rb") as said:
                    err = said.read(_MAX_OUTPUT)
                if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                return channel.recv_exit_status(), out, shown(err)

    @contextmanager
    def _explained(self, doing: str = "") -> Iterator[None]:
        where = f"{doing} on {self.login}" if doing else str(self.login)
        try:
            yield
        except CertctlError:
            raise
        except paramiko.BadHostKeyException as error:
            raise _other_key(self.login, error.key) from error
        except paramiko.AuthenticationException as error:
            remedy = f"does {self.login.facts.user} have this key in authorized_keys, or this password?"
            raise Refused(f"{where}: the login was refused; {remedy}") from error
        except paramiko.ssh_exception.IncompatiblePeer as error:
            raise Misconfigured(f"{where}: {error}; outdated algorithms are not used, update its SSH server") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"{where}: no answer within {self.login.timeout_s:g} s") from error
        except (OSError, paramiko.SSHException, EOFError) as error:
            raise Transient(f"{where}: {str(error) or 'the connection was closed'}") from error


class SFTPFiles:
    """Files by SFTP, with OpenSSH's extensions for an atomic rename and for what is on the disk."""

    def __init__(self, session: Session, sftp: paramiko.SFTPClient) -> None:
        self._where = session.login
        self._sftp = sftp
        self._raw: Any = sftp

    def read(self, path: str) -> Standing | None:
        """See ``Files``."""
        try:
            with self._explained(path):
                facts = self._sftp.lstat(path)
                if not stat.S_ISREG(facts.st_mode or 0):
                    raise _no_file(path, self._where)
                with self._sftp.open(path, "rb") as file:
                    content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        mode, uid, gid = stat.S_IMODE(facts.st_mode or 0), facts.st_uid, facts.st_gid
        return Standing(content, mode, -1 if uid is None else uid, -1 if gid is None else gid)

    def write(self, path: str, file: Standing) -> None:
        """See ``Files``. Paramiko's own ``open`` cannot say a mode, so a key could be opened before its chmod."""
        self.remove(path)
        private = paramiko.SFTPAttributes()
        private.st_mode = 0o600
        flags = SFTP_FLAG_WRITE | SFTP_FLAG_CREATE | SFTP_FLAG_EXCL
        with self._explained(path, "its folder must exist, and the user must be allowed to write there"):
            _, answer = self._raw._request(CMD_OPEN, path.encode(), flags, private)  # noqa: SLF001
            handle = answer.get_binary()
            with paramiko.SFTPFile(self._sftp, handle, "wb", -1) as new:
                new.write(file.content)
                new.flush()
                if (file.uid, file.gid) != (-1, -1):
                    self._chown(path, file)
                self._sftp.chmod(path, file.mode)
                with suppress(OSError):  # not offered: then it is as durable as the host makes it
                    self._raw._request(CMD_EXTENDED, "fsync@openssh.com", handle)  # noqa: SLF001

    def _chown(self, path: str, file: Standing) -> None:
        there = self._sftp.stat(path)
        uid, gid = (there.st_uid if file.uid == -1 else file.uid), (there.st_gid if file.gid == -1 else file.gid)
        if (uid, gid) != (there.st_uid, there.st_gid):
            self._sftp.chown(path, uid or 0, gid or 0)

    def rename(self, path: str, to: str) -> None:
        """See ``Files``."""
        with self._explained(to, "does its SFTP server have posix-rename@openssh.com?"):
            self._sftp.posix_rename(path, to)

    def remove(self, path: str) -> None:
        """See ``Files``."""
        with suppress(FileNotFoundError), self._explained(path):
            self._sftp.remove(path)

    def real(self, folder: str) -> str:
        """See ``Files``."""
        try:
            with self._explained(folder):
                return self._sftp.normalize(folder)
        except FileNotFoundError as error:
            raise _no_folder(folder, self._where) from error

    @contextmanager
    def _explained(self, path: str, remedy: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if not remedy:
                raise
            raise Misconfigured(f"{path} on {self._where}: no such folder; {remedy}") from None
        except TimeoutError as error:
            raise DeadlineExceeded(f"{path} on {self._where}: no answer within {self._where.timeout_s:g} s") from error
        except PermissionError as error:
            hint = remedy or f"give {self._where.facts.user} the right, or set sudo in agent.toml"
            raise Misconfigured(f"{path} on {self._where}: permission denied; {hint}") from error
        except (OSError, paramiko.SSHException, EOFError) as error:
            said = str(error) or "the connection was closed"
            raise Transient(f"{path} on {self._where}: {said}" + (f"; {remedy}" if remedy else "")) from error


class ShellFiles:
    """Files by a POSIX shell, where there is no SFTP; ``become`` stands before it."""

    def __init__(self, session: Session, become: tuple[str, ...] = ()) -> None:
        self._session = session
        self._become = become

    def read(self, path: str) -> Standing | None:
        """See ``Files``."""
        status, out, said = self._sh(_READ, path)
        if status == _ABSENT:
            return None
        if status == _NO_FILE:
            raise _no_file(path, self._session.login)
        self._check(status, path, said)
        head, _, content = out.partition(b"\n")
        mode, uid, gid = head.split()
        return Standing(content, int(mode, 8), int(uid), int(gid))

    def write(self, path: str, file: Standing) -> None:
        """See ``Files``."""
        owner = ":".join(str(number) if number != -1 else "" for number in (file.uid, file.gid))
        words = (f"{file.mode:o}", "-1:-1" if owner == ":" else owner)
        status, _, said = self._sh(_WRITE, path, *words, stdin=file.content)
        self._check(status, path, said)

    def rename(self, path: str, to: str) -> None:
        """See ``Files``."""
        status, _, said = self._sh('mv -f "$1" "$2"', path, to)
        self._check(status, to, said)

    def remove(self, path: str) -> None:
        """See ``Files``."""
        status, _, said = self._sh('rm -f "$1"', path)
        self._check(status, path, said)

    def real(self, folder: str) -> str:
        """See ``Files``."""
        status, out, said = self._sh(_REAL, folder)
        if status == _ABSENT:
            raise _no_folder(folder, self._session.login)
        self._check(status, folder, said)
        return out.decode(errors="surrogateescape").removesuffix("\n")

    def _sh(self, script: str, *words: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        return self._session.run((*self._become, "sh", "-c", script, "sh", *words), stdin)

    def _check(self, status: int, path: str, said: str) -> None:
        if status:
            raise Misconfigured(f"{path} on {self._session.login}: {said or f'the shell ended with {status}'}")


class _Unknown(paramiko.MissingHostKeyPolicy):
    """What to do with the key of a host that known_hosts does not name, or where fingerprints stand instead."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def missing_host_key(self, _client: paramiko.SSHClient, _hostname: str, key: paramiko.PKey) -> None:
        """Return for a key that is pinned, or the first one where that is trusted; raise ``Refused`` otherwise."""
        facts = self._login.facts
        if facts.host_keys:
            if key.fingerprint not in facts.host_keys:
                raise _other_key(self._login, key)
        elif facts.first_use:
            _remember(self._login, key)
        else:
            remedy = f"compare it on the host (ssh-keygen -l), then add its line to {facts.known_hosts}"
            raise Refused(f"{self._login}: its host key {key.fingerprint} is not known; {remedy}")


def _remember(login: Login, key: paramiko.PKey) -> None:
    name = login.host if login.port == 22 else f"[{login.host}]:{login.port}"  # noqa: PLR2004 - as OpenSSH writes it
    path = login.facts.known_hosts
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{name} {key.get_name()} {key.get_base64()}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        remedy = "the agent's user must be allowed to write it for first_use"
        raise Misconfigured(f"{path} cannot be written: {error.strerror}; {remedy}") from error


def _other_key(login: Login, key: paramiko.PKey) -> Refused:
    source = login.facts.known_hosts or "host_keys"
    remedy = "somebody may be listening in; if the host really has a new key, change it there"
    return Refused(f"{login} shows the host key {key.fingerprint}, which is not the one of {source}; {remedy}")


def _private_key(login: Login) -> paramiko.PKey | None:
    """Return the key to log in with: the target's own, else, unless it has a password, the file of the host."""
    source = "config.private_key"
    text = login.private_key.reveal() if login.private_key else ""
    if not text and login.facts.key_file and login.password is None:
        source = login.facts.key_file
        try:
            text = Path(source).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"{source} cannot be read: {error}") from error
    if not text:
        return None
    passphrase = login.passphrase.reveal() if login.passphrase else None
    for kind in _KEY_TYPES:
        try:
            return kind.from_private_key(io.StringIO(text), passphrase)
        except paramiko.PasswordRequiredException as error:
            raise Misconfigured(f"{source}: the key has a passphrase; set config.passphrase") from error
        except (paramiko.SSHException, ValueError, IndexError):
            continue
    problem = "the passphrase is wrong, or it is no Ed25519, ECDSA or RSA key" if passphrase else "it is no private key"
    raise Misconfigured(f"{source}: {problem}; OpenSSH and PEM files are read")


def _all(channel: paramiko.Channel, deadline: float) -> bytes:
    out = bytearray()
    while chunk := channel.recv(1 << 15):
        out += chunk[: 2 * MAX_BYTES - len(out)]
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(out)


def shown(output: bytes) -> str:
    """Return a command's output as people may see it: capped, in one line, without private keys."""
    return " ".join(_KEY.sub("(key removed)", output[-_MAX_OUTPUT:].decode(errors="replace")).split())[-1000:]


def _no_file(path: str, login: Login) -> Refused:
    return Refused(f"{path} on {login} is a link or no file and will not be replaced; choose the path it leads to")


def _no_folder(folder: str, login: Login) -> Misconfigured:
    return Misconfigured(f"{login}: there is no folder {folder}, or the user cannot enter it; make it there")
