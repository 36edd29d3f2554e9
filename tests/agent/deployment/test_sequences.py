"""Any sequence of deployments, faults and power cuts leaves one complete pair, the old or the new one.

With the layouts ``current`` and ``combined`` that holds at every instant, whatever of the disk survives a cut; with
``separate`` after the repair at the agent's start.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath

import pytest
import trio
import trio.testing
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.agent.deployment.authority import Authority, Issued
from tests.agent.deployment.power import ATOMIC, Host
from tests.agent.disk import Disk, File, Folder, Link, recorded, restore

pytestmark = pytest.mark.slow

FAULTS = ("", "check", "reload", "stubborn")
CUT_S = 1000
"""Where the power goes, of a thousand moments of a deployment."""

Step = tuple[str, int | None]
"""A fault during a deployment, and the moment of a power cut, if there is one."""

step: SearchStrategy[Step] = st.tuples(st.sampled_from(FAULTS), st.none() | st.integers(0, CUT_S))


@pytest.mark.parametrize("layout", ["current", "separate", "combined"])
@settings(
    max_examples=4, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # a step takes long to shrink
@given(plain=st.booleans(), steps=st.lists(step, min_size=2, max_size=4))
def test_one_complete_pair_whatever_happens(layout: str, plain: bool, steps: Sequence[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder), Authority(), layout)
        trio.run(_play, host, plain, steps, clock=trio.testing.MockClock(autojump_threshold=0))


async def _play(host: Host, plain: bool, steps: Sequence[Step]) -> None:
    known, stands = dict[str, Issued](), "nothing"
    if plain:
        stands = "plain"
        known[stands] = host.authority.issue()
        host.put(known[stands])
    for number, (fault, cut) in enumerate(steps):
        name = f"version {number}"
        known[name] = host.authority.issue()
        stands = await _deploy(host, known, stands, name, fault, cut)
    host.daemon.failing, host.daemon.stubborn = "", False
    known["last"] = host.authority.issue()
    assert (await host.deploy(known["last"])).outcome == "served"
    assert host.shown(known) == "last"
    assert [path for path in host.root.rglob(".*") if path.name != ".certctl"] == []


async def _deploy(host: Host, known: dict[str, Issued], stands: str, name: str, fault: str, cut: int | None) -> str:
    """Deploy, perhaps until the power goes; return whose pair stands there, after the repair in that case."""
    host.daemon.stubborn = fault == "stubborn"
    host.daemon.failing = fault if fault in {"check", "reload"} else ""
    with pytest.MonkeyPatch.context() as patch, recorded(host.root, patch) as disk:
        outcome = await host.deploy(known[name])
        works = outcome.outcome == "served"
        # The first files of a server that does not run yet are left for its start.
        works = works or (stands == "nothing" and fault == "reload")
        disk.mark(name if works else stands)
    _judge(host, disk, known, {stands, name})
    after = host.shown(known)
    assert after == (name if works else stands), outcome
    if cut is None:
        return after
    trees = list(disk.found)
    tree = trees[cut * (len(trees) - 1) // CUT_S]
    restore(host.root, tree)
    host.daemon.failing, host.daemon.stubborn = "", False
    for message in await host.deployer().repair():
        assert message.endswith("was undone, the previous state is back")
    found = host.shown(known)
    assert found in ({disk.found[tree]} if disk.found[tree] else {stands, name})
    return found


def _judge(host: Host, disk: Disk, known: dict[str, Issued], allowed: set[str]) -> None:
    """See at every instant, in whatever may be found after a cut there, a complete pair."""
    if host.layout not in ATOMIC:
        return
    for tree in disk.found:
        pair = tuple(_content(tree, path.relative_to(host.root)) for path in (host.cert, host.key))
        assert any(pair == _wanted(host, known, name) for name in allowed), tree


def _wanted(host: Host, known: dict[str, Issued], name: str) -> tuple[bytes | None, bytes | None]:
    if name == "nothing":
        return None, None
    issued = known[name]
    if host.layout == "combined":
        return (issued.key_pem + issued.cert_pem,) * 2
    return issued.cert_pem, issued.key_pem


def _content(tree: Folder, path: PurePath) -> bytes | None:
    """Return what a reader finds at ``path`` in a tree, through links; None for nothing."""
    node: File | Link | Folder | None = tree
    walked, rest = PurePath(), list(path.parts)
    while rest and isinstance(node, Folder):
        part = rest.pop(0)
        node = dict(node.entries).get(part)
        if isinstance(node, Link):
            return _content(tree, _normal(walked / node.text / PurePath(*rest)))
        walked /= part
    return node.content if isinstance(node, File) else None


def _normal(path: PurePath) -> PurePath:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return PurePath(*parts)
