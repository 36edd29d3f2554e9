"""Power cuts: whatever of the keystore had not reached the disk is gone; a key whose CSR left is not among it.

Nor does a cut leave a key that belongs to nothing, which nobody would ever remove.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.keystore import Keystore, PendingRequest
from core import keys
from core.csr import read_csr
from tests.agent.disk import Disk, recorded, restore
from tests.agent.test_keystore import certify, item

ASKED, ANSWERED, PRUNED = "asked", "answered", "pruned"


def record(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Disk, PendingRequest]:
    """Ask for a renewal and get it, beside five older keys."""
    keystore = Keystore(root / "keys")
    for number in range(5):
        pending = keystore.request_for(item(f"job-{number}"))
        certify(keystore, pending)
    with recorded(root, monkeypatch) as disk:
        pending = keystore.request_for(item("job-new"))
        disk.mark(ASKED)
        certify(keystore, pending)
        disk.mark(ANSWERED)
        keystore.prune("mc-a", pending.spki_sha256)
        disk.mark(PRUNED)
    return disk, pending


def has_key(keystore: Keystore, spki_sha256: str) -> bool:
    key = keys.from_pem(keystore.key("mc-a", spki_sha256))
    return keys.spki_sha256(key.public_key()) == spki_sha256


def ownerless(root: Path) -> list[str]:
    """Return the keys that belong to nothing: no request may still bring them a chain, and they have none."""
    keys_here = [path for path in root.glob("keys/mc-a/*") if not path.suffix]
    beside = ((path, path.with_name(f"{path.name}.request"), path.with_name(f"{path.name}.pem")) for path in keys_here)
    return [key.name for key, request, chain in beside if not request.exists() and not chain.exists()]


def test_a_key_whose_request_left_survives_a_cut_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (root / "keys").mkdir(parents=True)
    disk, pending = record(root, monkeypatch)
    assert disk.operations > 15
    for tree, promised in disk.found.items():
        restore(root, tree)
        keystore = Keystore(root / "keys")
        keystore.sweep()
        assert ownerless(root) == [], tree
        if promised:
            assert has_key(keystore, pending.spki_sha256), tree
        if promised == ASKED:
            assert keystore.request_for(item("job-new")) == pending, tree
        for _, unanswered in keystore.unanswered():
            assert has_key(keystore, unanswered.spki_sha256), tree
        again = keystore.request_for(item("job-next"))
        assert read_csr(again.csr)[0].spki_sha256 == again.spki_sha256
        assert has_key(keystore, again.spki_sha256), tree
        assert not list(root.glob("keys/mc-a/.*"))


def test_the_first_key_survives_although_its_folder_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (root / "keys").mkdir(parents=True)
    with recorded(root, monkeypatch) as disk:
        pending = Keystore(root / "keys").request_for(item())
        disk.mark(ASKED)
    for tree, promised in disk.found.items():
        restore(root, tree)
        keystore = Keystore(root / "keys")
        keystore.sweep()
        assert not promised or has_key(keystore, pending.spki_sha256), tree
        assert keystore.request_for(item()).job_id == "job-1"
