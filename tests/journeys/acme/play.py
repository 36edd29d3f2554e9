"""Plays cases, several at a time because clients wait more than they compute, and looks at what came of each."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.journeys.acme.client import Client, Setting
from tests.journeys.acme.ground import Ground, ground
from tests.journeys.acme.matrix import Account, Case, Names, Then
from tests.journeys.acme.server import Server

AT_ONCE = 10
OK = "ok"
Serving = Callable[[Ground], AbstractContextManager[Server]]
"""Runs a server whose resolver and ports for challenges are those of a ground."""
Played = Mapping[Case, Future[float]]
"""Seconds of each case, or what was wrong, once it has been played."""


class Row(msgspec.Struct, frozen=True):
    """How a case went: ``outcome`` is ``ok``, or what was wrong in one line."""

    date: str
    server: str
    client: str
    version: str
    challenge: str
    names: str
    account: str
    then: str
    outcome: str
    seconds: float


@contextmanager
def played(serving: Serving, cases: Sequence[Case]) -> Iterator[tuple[Server, Played]]:
    """Begin all cases on a server of their own; in the end those that have begun are waited for."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certctl-acme-", dir="/var/tmp")))
        folder.chmod(0o755)  # Apache works as an account of its own
        server = stack.enter_context(serving(stack.enter_context(ground(folder))))
        player = Player(server, folder)
        stack.callback(player.close)
        yield server, player.begin(cases)


class Player:
    """Plays each case in a folder of its own below ``folder``, which every account has to be able to read."""

    def __init__(self, server: Server, folder: Path, at_once: int = AT_ONCE) -> None:
        self._server = server
        self._folder = folder
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="acme")

    def begin(self, cases: Sequence[Case]) -> Played:
        """Begin all of them."""
        return {case: self._pool.submit(self.play, case, number) for number, case in enumerate(cases)}

    def close(self) -> None:
        """Wait for what has begun; begin nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def play(self, case: Case, number: int) -> float:
        """Play one case to its end; return how many seconds its client took."""
        setting = self._server.lend(bound=case.account is Account.BOUND)
        place = self._folder / f"{number}-{case.client.__name__.lower()}"  # short, since sockets lie below it
        place.mkdir()
        names = self._names(case, number, setting)
        started = time.monotonic()
        with case.client(place, setting) as client:
            said = client.issue(names, case.challenge)
            try:
                first = self._right(client, names)
                said = _STORIES[case.then](self._server, client)
                self._judge(case, client, names, first)
            except AssertionError as error:
                error.add_note(f"{case.client.name} said last: {said}")
                raise
        return time.monotonic() - started

    def _names(self, case: Case, number: int, setting: Setting) -> list[str]:
        name = f"n{number}.{slug(case)[:40].strip('-')}.example.test"
        wanted = {
            Names.ONE: [name],
            Names.SEVERAL: [name, f"www.{name}"],
            Names.WILDCARD: [name, f"*.{name}"],
            Names.IP: [setting.address],
        }[case.names]
        for each in wanted:
            if case.names is not Names.IP and not each.startswith("*"):
                self._server.point(each, setting.address)
        return wanted

    def _right(self, client: Client, names: Sequence[str]) -> list[bytes]:
        """See that the chain on disk is for these names and leads to the server's roots; return it."""
        chain = client.certificate()
        assert sorted(subject_names(chain[0])) == sorted(names)
        verify(client.folder, chain, self._server.anchors_pem())
        return chain

    def _judge(self, case: Case, client: Client, names: Sequence[str], first: Sequence[bytes]) -> None:
        now = self._right(client, names)
        renewed = case.then in {Then.RENEW, Then.KEY_CHANGE, Then.ARI}
        assert (now[0] != first[0]) is renewed, "another certificate than before" if renewed else "the same one"
        assert self._server.is_revoked(now) is (case.then is Then.REVOKE)


def _renew_as_told(server: Server, client: Client) -> str:
    server.hasten(client.certificate())
    return client.renew_if_told()


_STORIES: dict[Then, Callable[[Server, Client], str]] = {
    Then.NOTHING: lambda _server, _client: "",
    Then.RENEW: lambda _server, client: client.renew(),
    Then.REVOKE: lambda _server, client: client.revoke(),
    # Only the new key can sign for the account when it is used again.
    Then.KEY_CHANGE: lambda _server, client: client.change_key() + client.renew(),
    Then.ARI: _renew_as_told,
}


def subject_names(der: bytes) -> list[str]:
    """Return the names and addresses of a certificate."""
    leaf = x509.load_der_x509_certificate(der)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def verify(folder: Path, chain: Sequence[bytes], anchors_pem: str) -> None:
    """Let the openssl program check a chain."""
    pems = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode() for der in chain]
    files = {"checked-leaf.pem": pems[0], "checked-chain.pem": "".join(pems[1:]), "checked-roots.pem": anchors_pem}
    for name, text in files.items():
        (folder / name).write_text(text)
    argv = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "checked-roots.pem"]
    argv += ["-untrusted", "checked-chain.pem", "checked-leaf.pem"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def row(server: Server, case: Case, result: Future[float]) -> Row:
    """Wait for a case and return how it went."""
    error = result.exception()
    lines = str(error).strip().splitlines() or [""]
    outcome = OK if error is None else f"{type(error).__name__}: {lines[0]} … {lines[-1]}"
    today = dt.datetime.now(dt.UTC).date().isoformat()
    asked = (case.challenge, case.names, case.account, case.then)
    seconds = round(result.result(), 1) if error is None else 0.0
    return Row(today, server.name, case.client.name, case.client.version(), *asked, outcome, seconds)


def slug(case: Case) -> str:
    """Return a case as the name of a folder, and of a host."""
    return re.sub(r"[^a-z0-9]+", "-", case.title.lower()).strip("-")
