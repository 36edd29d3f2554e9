"""An agent's identity: made once, private, and damaged files explained."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.identity import load_identity
from core.errors import CertctlError, Misconfigured


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_keys_are_made_once_and_the_id_is_remembered(state_dir: Path) -> None:
    first = load_identity(state_dir)
    assert first.agent_id == ""
    first.enrolled_as("ag-06abc")
    again = load_identity(state_dir)
    assert again.agent_id == first.agent_id == "ag-06abc"
    assert again.signing_public == first.signing_public
    assert again.sealing_public == first.sealing_public
    assert len({first.signing_public, first.sealing_public}) == 2


def test_only_the_agent_may_read_it(state_dir: Path) -> None:
    load_identity(state_dir).enrolled_as("ag-1")
    folder = state_dir / "identity"
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == {
        "signing.key": 0o600,
        "sealing.key": 0o600,
        "agent-id": 0o600,
    }


def test_what_a_crash_left_half_written_is_swept(state_dir: Path) -> None:
    load_identity(state_dir)
    (state_dir / "identity" / ".signing.key.4711.1").write_bytes(b"half a key")
    load_identity(state_dir)
    assert {path.name for path in (state_dir / "identity").iterdir()} == {"signing.key", "sealing.key"}


@pytest.mark.parametrize("name", ["signing.key", "sealing.key"])
@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_not_replaced(state_dir: Path, name: str, content: bytes) -> None:
    load_identity(state_dir)
    (state_dir / "identity" / name).write_bytes(content)
    with pytest.raises(Misconfigured, match="is damaged; restore it"):
        load_identity(state_dir)
    assert (state_dir / "identity" / name).read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"ag-1/../../x", b"\xff\xfe", b"ag-1\nag-2"])
def test_a_damaged_id_is_told_with_the_remedy(state_dir: Path, content: bytes) -> None:
    load_identity(state_dir)
    (state_dir / "identity" / "agent-id").write_bytes(content)
    with pytest.raises(Misconfigured, match="agent-id is damaged; remove it"):
        load_identity(state_dir)


@pytest.mark.parametrize("agent_id", ["", "ag-", "../x", "ag-1/x", "ag-A"])
def test_an_id_that_is_none_is_not_taken(state_dir: Path, agent_id: str) -> None:
    identity = load_identity(state_dir)
    with pytest.raises(Misconfigured, match="not an agent's id"):
        identity.enrolled_as(agent_id)
    assert not (state_dir / "identity" / "agent-id").exists()


def test_what_the_disk_refuses_is_explained(state_dir: Path) -> None:
    (state_dir / "identity").write_text("a file in the way")
    with pytest.raises(CertctlError, match="reading this agent's identity failed"):
        load_identity(state_dir)
