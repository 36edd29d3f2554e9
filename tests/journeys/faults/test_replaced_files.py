"""Somebody changed installed files, or certctl's own, between two renewals: by hand, by another tool, by a clean-up.

Then a renewal fails for some time. Its undo brings back what was found, not what certctl had put there; once the cause
is mended the renewal installs its own files again, whatever stands at the paths.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab.processes import wait_until
from benchmarks.lab.servers import Site, write_placeholder
from tests.journeys.faults.ground import Record, Trouble, play, prepared
from tests.journeys.faults.questions import Questions
from tests.journeys.faults.reloading import Reloading
from tests.journeys.stage import Stage
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)
Change = Callable[[Site, Site], None]
"""What somebody does to a site's files; the second argument has other files of theirs, a pair."""


class OneFile(Site):
    """A site whose certificate and key are in the same file."""

    @property
    def key_path(self) -> Path:
        """Return it."""
        return self.cert_path


def overwrite(site: Site, theirs: Site) -> None:
    """Copy both over what is there, which goes through links."""
    site.cert_path.write_bytes(theirs.cert_path.read_bytes())
    site.key_path.write_bytes(theirs.key_path.read_bytes())


def overwrite_half(site: Site, theirs: Site) -> None:
    """Forget the key: what is left is no pair."""
    site.cert_path.write_bytes(theirs.cert_path.read_bytes())


def put_half(site: Site, theirs: Site) -> None:
    """Put a plain file in place of the certificate alone."""
    site.cert_path.unlink()
    shutil.copyfile(theirs.cert_path, site.cert_path)
    site.cert_path.chmod(0o604)


def put_links(site: Site, theirs: Site) -> None:
    """Let the paths lead to where another tool keeps its files."""
    for path, to in ((site.cert_path, theirs.cert_path), (site.key_path, theirs.key_path)):
        path.unlink(missing_ok=True)
        if not path.is_symlink():
            path.symlink_to(to)


def delete_key(site: Site, _theirs: Site) -> None:
    """Remove the key, of ``combined`` the one file there is."""
    site.key_path.unlink()


def delete_current(site: Site, _theirs: Site) -> None:
    """Remove the link to the published version: in the layout ``current`` both paths lead nowhere then."""
    (link,) = site.folder.glob(".certctl/*/current")
    link.unlink()


def delete_store(site: Site, _theirs: Site) -> None:
    """Remove whatever certctl keeps."""
    shutil.rmtree(site.folder / ".certctl")


class Replaced(Reloading):
    """Files are changed, and from then on the reload fails."""

    script = "echo 'Job for nginx.service failed.'; exit 1"
    step = "reloaded"
    cause = r"the reload failed: `\S+-reload` ended with 1: Job for nginx\.service failed\."

    def __init__(self, folder: Path, layout: str, change: Change) -> None:
        self.name = f"{layout}-{change.__name__.replace('_', '-')}"
        self.layout = layout
        self._change = change
        super().__init__(folder)

    def prepare(self, stage: Stage) -> None:
        """Start nginx; in the layout ``combined`` with one file for both."""
        super().prepare(stage)
        self.theirs = Site(f"theirs-{self.site}", self.folder / "theirs" / self.name)
        self.theirs.folder.mkdir(parents=True)
        write_placeholder(self.theirs)
        if self.layout == "combined":
            two = self.server.sites[self.site]
            one = self.server.sites[self.site] = OneFile(two.name, two.folder)
            one.cert_path.write_bytes(two.key_path.read_bytes() + two.cert_path.read_bytes())
            two.key_path.unlink()
            self.theirs = OneFile(self.theirs.name, self.theirs.folder)
            self.theirs.cert_path.write_bytes(one.cert_path.read_bytes())
            self.server.process.stop()
            self.server.mend()
            self.server.start()

    def config(self) -> dict[str, Any]:
        """Return the target's configuration."""
        more = {"key_path": None} if self.layout == "combined" else {}
        return {**super().config(), **more}

    def strike(self) -> None:
        self._change(self.server.sites[self.site], self.theirs)
        self._left = standing(self.server.sites[self.site])
        super().strike()

    def is_held(self) -> bool:
        """Say whether what somebody left there is back, or soon is: the next attempt may be under way."""
        site = self.server.sites[self.site]
        with suppress(TimeoutError):
            wait_until("what was left there is back", lambda: standing(site) == self._left, 5)
            return True
        return False


def standing(site: Site) -> dict[str, tuple[str, bytes | None, int]]:
    """Return what is at a site's paths and at certctl's own link: link texts, contents, modes."""
    paths = {site.cert_path, site.key_path, *site.folder.glob(".certctl/*/current")}
    return {str(path): _standing(path) for path in paths if path.is_symlink() or path.exists()}


def _standing(path: Path) -> tuple[str, bytes | None, int]:
    link = str(path.readlink()) if path.is_symlink() else ""
    content = path.read_bytes() if path.is_file() else None
    return link, content, 0 if link else stat.S_IMODE(path.stat().st_mode)


class NoLongerPEM(Trouble):
    """Somebody left a note in place of the certificate: what is no certificate is never replaced."""

    name = "no-longer-pem"
    step = "looked"
    cause = r"fullchain\.pem holds no PEM certificate or key and will not be replaced; choose another path or move"

    @property
    def note(self) -> Path:
        """Return where it is."""
        return self.server.sites[self.site].cert_path

    def strike(self) -> None:
        self.note.unlink()
        self.note.write_text("the certificate has moved to the load balancer\n")

    def is_held(self) -> bool:
        """Say whether the note is still there."""
        return "moved" in self.note.read_text()

    def mend(self) -> None:
        self.note.unlink()


class NeighbourHalfReplaced(Trouble):
    """Another site of the same nginx has a certificate and another one's key: nothing that is no pair is loaded."""

    name = "neighbour"
    step = "checked"
    cause = (
        r"the live configuration does not pass its check: .*other-neighbour\S+privkey\.pem.*key values mismatch"
        r".*it fails with the previous files as well, so its cause lies elsewhere"
    )

    def strike(self) -> None:
        key = self.server.sites[f"other-{self.site}"].key_path
        key.rename(key.with_suffix(".away"))
        shutil.copyfile(self.server.sites[self.site].key_path, key)

    def mend(self) -> None:
        key = self.server.sites[f"other-{self.site}"].key_path
        key.with_suffix(".away").rename(key)


CHANGES: dict[str, tuple[Change, ...]] = {
    "current": (overwrite, overwrite_half, put_half, put_links, delete_key, delete_current, delete_store),
    "separate": (overwrite_half, put_links, delete_key, delete_current),
    "combined": (overwrite, put_links, delete_key),
}
KINDS: dict[str, Callable[[Path], Trouble]] = {
    **{
        f"{layout}-{change.__name__.replace('_', '-')}": partial(Replaced, layout=layout, change=change)
        for layout, changes in CHANGES.items()
        for change in changes
    },
    NoLongerPEM.name: NoLongerPEM,
    NeighbourHalfReplaced.name: NeighbourHalfReplaced,
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[dict[str, Record]]:
    """All of it, played once."""
    folder = tmp_path_factory.mktemp("replaced")
    with prepared(folder, postgres_server) as (stage, journey):
        troubles = [kind(folder) for kind in KINDS.values()]
        for trouble in troubles:
            trouble.prepare(stage)
        policy = f'allowed_paths = ["{folder}"]\n' + "".join(trouble.policy() for trouble in troubles)
        parallel = {"CERTCTL_MAX_PARALLEL_DEPLOYMENTS": str(len(troubles))}
        agent = stage.agent("edge", journey.coordinator, policy, **parallel)
        yield play(troubles, journey, [agent] * len(troubles))


@pytest.fixture(params=list(KINDS))
def record(request: pytest.FixtureRequest, records: dict[str, Record]) -> Record:
    """One trouble, which went through all its parts."""
    found = records[request.param]
    assert not found.problem
    return found


class TestReplacedFiles(Questions):
    """Each question to each trouble."""

    @staticmethod
    def test_one_request_makes_one_version(record: Record) -> None:
        """The first certificate and one renewal, however often it was tried to install it."""
        versions = record.journey.versions(record.certificate_id)
        assert [version["generation"] for version in versions] == [2, 1]
        assert record.after is not None
        assert record.after.fingerprint == versions[0]["fingerprint"]
