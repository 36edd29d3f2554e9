"""Changes certificates of a running HAProxy over its stats socket: ``set ssl cert``, then ``commit ssl cert``.

HAProxy keeps what it loaded in memory under the names of its configuration and never looks at the files again, so each
file is sent as it is on the disk, where the next reload or start finds the same. Kept connections go on, and no process
is replaced. Keys travel in the socket alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec

from connectors.targets.base import Role
from connectors.targets.pem import pair_of
from core.errors import CertctlError, DeadlineExceeded, Transient
from core.secret import Secret

TIMEOUT_S = 20.0
"""For one command; a certificate that thousands of server names use takes HAProxy a while."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.DOTALL)
_MAX_SAID = 600


class _Change(msgspec.Struct, frozen=True):
    """What a pair is now, None for absent, and how HAProxy calls it and its folder, None for unknown."""

    name: str | None
    folder: str | None
    file: str
    pem: Secret[bytes] | None


class HAProxyRuntime(msgspec.Struct, frozen=True):
    """The stats socket of one HAProxy; ``level admin`` is needed."""

    socket: str

    async def take(self, published: Sequence[Mapping[Role, Path]]) -> bool:
        """Make HAProxy use what each of these pairs is now; return False, with nothing changed, if it cannot.

        It cannot take or forget a file that it does not know yet, unless that lies in a folder it has loaded. Raises
        ``Transient`` when HAProxy refuses one, whose transaction is then aborted, or does not answer.
        """
        names = {_resolved(name): name for name in await self._names("show ssl cert")}
        folders = {_resolved(name): name.rstrip("/") for name in await self._names("show ssl crt-list")}
        changes = list[_Change]()
        for files in published:
            certificate, key = (Path(path) for path in pair_of(files))
            change = _Change(
                names.get(certificate), folders.get(certificate.parent), certificate.name, _read(key, certificate)
            )
            if change.folder is None and (change.name is None or change.pem is None):
                return False
            changes.append(change)
        for change in changes:
            await self._make(change)
        return True

    async def _make(self, change: _Change) -> None:
        if change.pem is None and change.name is not None:
            await self._ask(f"del ssl crt-list {change.folder} {change.name}")
            await self._expect("deleted!", f"del ssl cert {change.name}")
        elif change.pem is not None and change.name is not None:
            await self._replace(change.name, change.pem)
        elif change.pem is not None:
            name = f"{change.folder}/{change.file}"
            await self._expect("New empty", f"new ssl cert {name}")
            await self._replace(name, change.pem)
            await self._expect("Success!", f"add ssl crt-list {change.folder} {name}")

    async def _names(self, command: str) -> list[str]:
        """Return the files or folders that HAProxy has loaded, as its configuration spells them."""
        said = await self._ask(command)
        lines = [line for line in said.splitlines() if line.strip() and line[0] not in "#*"]
        if not all(line.startswith("/") for line in lines):
            raise self._refused(command, said, "does the line `stats socket` say `level admin`?")
        return lines

    async def _replace(self, name: str, pem: Secret[bytes]) -> None:
        """Replace one certificate; HAProxy has one transaction at a time, and goes on with one that was left open."""
        try:
            await self._expect("Transaction ", f"set ssl cert {name}", pem)
            await self._expect("Success!", f"commit ssl cert {name}")
        except CertctlError:
            # Also harmless when there is none, or when it is somebody else's, on another certificate.
            with suppress(CertctlError):
                await self._ask(f"abort ssl cert {name}")
            raise

    async def _expect(self, success: str, command: str, payload: Secret[bytes] | None = None) -> None:
        said = await self._ask(command, payload)
        if success not in said:
            size = 0 if payload is None else len(payload.reveal())
            hint = f"does tune.bufsize hold the {size} bytes of key and chain?" if not said.strip() else ""
            raise self._refused(command, said, hint)

    def _refused(self, command: str, said: str, hint: str = "") -> Transient:
        text = " ".join(said.split())[-_MAX_SAID:] or "(it said nothing)"
        return Transient(f"HAProxy refused `{command}` on {self.socket}: {text}" + (f"; {hint}" if hint else ""))

    async def _ask(self, command: str, payload: Secret[bytes] | None = None) -> str:
        """Return the answer to one command; HAProxy closes the connection behind it."""
        request = command.encode()
        request += b"\n" if payload is None else b" <<\n" + payload.reveal() + b"\n\n"
        answer = bytearray()
        try:
            with anyio.fail_after(TIMEOUT_S):
                async with await anyio.connect_unix(self.socket) as stream:
                    await stream.send(request)
                    async for chunk in stream:
                        answer += chunk
        except TimeoutError as error:
            raise DeadlineExceeded(f"HAProxy did not answer on {self.socket} within {TIMEOUT_S:g} s") from error
        except (OSError, anyio.BrokenResourceError) as error:
            cause = getattr(error, "strerror", None) or type(error).__name__
            remedy = "is HAProxy running, with a `stats socket` there that the agent's user may open?"
            raise Transient(f"the stats socket {self.socket} cannot be used: {cause}; {remedy}") from error
        return answer.decode(errors="replace")


def _resolved(name: str) -> Path:
    """Return a name as the agent knows paths: folders with their links resolved, files with those of their folder."""
    path = Path(name)
    return Path(os.path.realpath(path)) if path.is_dir() else Path(os.path.realpath(path.parent)) / path.name


def _read(key: Path, certificate: Path) -> Secret[bytes] | None:
    """Return the blocks of both files without anything between them: an empty line would end the payload."""
    try:
        texts = [path.read_bytes() for path in dict.fromkeys((key, certificate))]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Transient(f"{error.filename} cannot be read: {error.strerror}") from error
    lines = (line for text in texts for block in _BLOCK.finditer(text) for line in block[0].splitlines())
    return Secret(b"\n".join(line for line in lines if line.strip()))
