"""Power cuts: whatever of a deployment or an undo had not reached the disk is gone; the repair finds a pair anyway.

``tests.agent.disk`` says what may be found after a cut at each file operation; each of these is put in place, looked
at, repaired by the real repair, and deployed to again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.deployment.authority import Authority, Issued
from tests.agent.deployment.power import ATOMIC, Host
from tests.agent.disk import Disk, recorded, restore

pytestmark = [pytest.mark.slow, pytest.mark.trio, pytest.mark.usefixtures("autojump_clock")]


async def check_every_cut(host: Host, disk: Disk, known: dict[str, Issued], before: str) -> None:
    """Put each find in place, repair, look, and deploy once more."""
    host.daemon.stubborn = False
    for tree, promised in disk.found.items():
        restore(host.root, tree)
        allowed = {promised} if promised else {before, "new"}
        if host.layout in ATOMIC:
            assert host.shown(known) in allowed, tree
        for message in await host.deployer().repair():
            assert message.endswith("was undone, the previous state is back"), tree
        assert host.shown(known) in allowed, tree
        assert list((host.state / "journal").glob("*.json")) == []
        assert (await host.deploy(known["new"])).outcome in {"served", "unchanged"}, tree
        assert host.shown(known) == "new"
        assert [path for path in host.root.rglob(".*") if path.name != ".certctl"] == []


@pytest.mark.parametrize("layout", ["current", "separate", "combined"])
@pytest.mark.parametrize("before", ["nothing", "plain", "old"])
@pytest.mark.parametrize("works", [True, False], ids=["deployment", "undo"])
async def test_a_cut_at_any_moment_leaves_a_pair(
    tmp_path: Path,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    before: str,
    works: bool,
) -> None:
    host = Host(tmp_path, authority, layout)
    known = {before: authority.issue(), "new": authority.issue()}
    if before == "plain":
        host.put(known[before])
    if before == "old":
        assert (await host.deploy(authority.issue())).outcome == "served"
        assert (await host.deploy(known[before])).outcome == "served"
    host.daemon.stubborn = not works
    with recorded(host.root, monkeypatch) as disk:
        outcome = await host.deploy(known["new"])
        assert (outcome.outcome, outcome.undo) == (("served", "not_needed") if works else ("failed", "done"))
        disk.mark("new" if works else before)
    assert disk.operations > 20
    await check_every_cut(host, disk, known, before)
