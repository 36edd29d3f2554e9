"""What the chapters need of a program: to start, to be asked what it serves, to be harmed and to be mended.

A subject owns one real program in a folder of its own, on free ports, with an expired placeholder for ``SITE`` at the
paths of its target. It knows nothing of coordinator and agent. Harm is done to the program's own configuration, as a
person might, or to the command that reloads it.
"""

from __future__ import annotations

import http.client
import importlib
import pkgutil
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmarks.lab.processes import Process
from benchmarks.lab.servers import Site, write_placeholder
from benchmarks.lab.wire import Seen, look, verified
from tests.journeys.targets import subjects

SITE = "shop.example.test"
PROBE_S = 3.0
"""The patience of the target's probe: as long as a certificate that is never served is waited for."""

Chapter = Literal[
    "first install",
    "renewal under load",
    "broken configuration",
    "failing reload",
    "wrong certificate served",
    "kill -9 in the middle",
]


class Subject(ABC):
    """One program as one kind of target. ``skips`` says why a chapter cannot be played, in words for docs."""

    target_type: ClassVar[str]
    variant: ClassVar[str] = ""
    """Tells apart several subjects of one type, for instance ``runtime`` for haproxy's socket."""
    skips: ClassVar[Mapping[Chapter, str]] = {}
    quick: ClassVar[bool] = True
    """Whether it is in the quick cut; a variant that differs little from another is not."""
    kernel: ClassVar[Mapping[str, str]] = {}
    """Settings below /proc/sys that the type's page recommends for hosts with visitors."""
    unreached: ClassVar[frozenset[str]] = frozenset()
    """Points of a deployment that this type has not."""
    broken_cause: ClassVar[str] = "the live configuration does not pass its check"
    """What a deployment says, as a regular expression, while the configuration is damaged."""
    reload_cause: ClassVar[str] = "the reload failed"
    """What a deployment says while the reload fails."""

    def __init__(self, folder: Path) -> None:
        """Write the configuration and the placeholder; start nothing."""
        self.folder = folder
        self.gate = Gate(folder)

    # --- the program -------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return the program's own words for its version, one line."""

    @abstractmethod
    def processes(self) -> Sequence[Process]:
        """Return what is to be stopped in the end, in the order of starting."""

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until the placeholder is served."""

    # --- the target --------------------------------------------------------------------------------------------------

    @abstractmethod
    def policy(self) -> str:
        """Return the host's agent.toml. The command that reloads goes through ``gate``."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the target's configuration; its probe waits ``PROBE_S``."""

    @abstractmethod
    def pair(self) -> tuple[bytes, bytes]:
        """Return certificate and key in PEM as the program would read them now."""

    # --- from outside ------------------------------------------------------------------------------------------------

    @abstractmethod
    def port(self) -> int:
        """Return where ``SITE`` is served."""

    def seen(self) -> Seen | None:
        """Look once, as anybody; None when nothing answers."""
        return look(self.port(), SITE)

    def trusted(self, root_pem: str) -> Seen:
        """Look as a client that checks chain, name and dates; raise ``OSError``."""
        return verified(self.port(), SITE, root_pem)

    def visit(self) -> None:
        """Be served once on a new connection; raise for anything else. Here: one page over HTTPS."""
        with self.kept() as again:
            again()

    @contextmanager
    def kept(self) -> Iterator[Callable[[], None]]:
        """Lend a connection that is kept: a function that is served once more each time. Here: pages over HTTPS."""
        with closing(http.client.HTTPSConnection("127.0.0.1", self.port(), timeout=10, context=anything())) as client:

            def again() -> None:
                client.request("GET", "/", headers={"Host": SITE})
                answer = client.getresponse()
                answer.read()
                if answer.status >= 500:
                    message = f"{answer.status} {answer.reason}"
                    raise OSError(message)

            yield again

    # --- harm --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def reload(self) -> None:
        """Reload it without certctl: the control of what visitors notice."""

    @abstractmethod
    def damage(self) -> None:
        """Write a configuration that its own check refuses; do not reload."""

    @abstractmethod
    def divert(self) -> None:
        """Write a valid configuration that serves another certificate than the target's for ``SITE``; do not reload."""

    @abstractmethod
    def mend(self) -> None:
        """Write the configuration that serves the target's files; do not reload."""


class OneProgram(Subject):
    """A subject that is one process, ready when its one port answers; its ``__init__`` sets both."""

    process: Process
    _port: int

    def processes(self) -> Sequence[Process]:
        """Return the one process."""
        return [self.process]

    def start(self) -> None:
        """Start it and wait until the placeholder is served."""
        self.process.start()
        self.process.await_ready(lambda: self.seen() is not None)

    def port(self) -> int:
        """Return its one port."""
        return self._port


def two_sites(folder: Path) -> tuple[Site, Site]:
    """Write a placeholder for the target's paths, and one for other paths to divert to."""
    live, other = (Site(SITE, folder / name) for name in ("live", "other"))
    for site in (live, other):
        site.folder.mkdir()
        write_placeholder(site)
    return live, other


class Gate:
    """A program in front of another one, which fails while it is shut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shut = folder / "gate-is-shut"

    def before(self, program: str, *words: str) -> str:
        """Return a program that becomes ``program``, but fails while the gate is shut and it is given all ``words``."""
        path = self._folder / f"gated-{Path(program).name}"
        given = " && ".join(f'case " $* " in *" {word} "*) true;; *) false;; esac' for word in words) or "true"
        path.write_text(
            f'#!/bin/sh\nif test -e "{self._shut}" && {given}; then echo "the gate is shut" >&2; exit 1; fi\n'
            f'exec "{program}" "$@"\n'
        )
        path.chmod(0o755)
        return str(path)

    def shut(self) -> None:
        """Let it fail from now on."""
        self._shut.touch()

    def open(self) -> None:
        """Let it succeed again."""
        self._shut.unlink(missing_ok=True)


def every_subject() -> list[type[Subject]]:
    """Return all subjects, sorted by the names of their modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(subjects.__path__))
    return [one for name in names for one in importlib.import_module(f"{subjects.__name__}.{name}").SUBJECTS]


def title(subject: type[Subject]) -> str:
    """Return what a subject is called in tables."""
    return f"{subject.target_type}, {subject.variant}" if subject.variant else subject.target_type


def anything() -> ssl.SSLContext:
    """Return a client's context that takes every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
