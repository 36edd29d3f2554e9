"""The keystore: what is on disk and when, which request is whose, what is removed, what a coordinator may not name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from agent import keystore as module
from agent.keystore import KEPT_KEYS, Keystore, PendingRequest
from core import keys
from core.certificates import pem_to_chain
from core.csr import read_csr
from core.errors import CertctlError, InvalidInput, Misconfigured, NotFound, Transient
from core.names import parse_name
from core.wire import IssuanceItem
from tests.agent.test_files import room_for

NOBODY = 65534


def item(job_id: str = "job-1", certificate_id: str = "mc-a", algorithm: str = "ecdsa-p256") -> IssuanceItem:
    return IssuanceItem(job_id, 1, certificate_id, "a.test", (parse_name("a.test"), parse_name("10.0.0.1")), algorithm)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def keystore(folder: Path) -> Keystore:
    return Keystore(folder)


def certify(
    keystore: Keystore, pending: PendingRequest, certificate_id: str = "mc-a", *, later: timedelta = timedelta()
) -> bytes:
    """Answer a request with a certificate for its key; return it."""
    key = keys.from_pem(keystore.key(certificate_id, pending.spki_sha256))
    name, now = x509.Name([]), datetime.now(UTC) + later
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    keystore.answer(certificate_id, pending.spki_sha256, (der,))
    return der


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "mc-a").iterdir()}


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384", "rsa-2048"])
def test_a_request_asks_for_exactly_what_is_wanted(keystore: Keystore, algorithm: str) -> None:
    pending = keystore.request_for(item(algorithm=algorithm))
    facts, _ = read_csr(pending.csr)
    assert facts.spki_sha256 == pending.spki_sha256
    assert (facts.common_name, facts.key_algorithm, facts.ignored) == ("a.test", algorithm, ())
    assert facts.names == {parse_name("a.test"), parse_name("10.0.0.1")}
    key = keys.from_pem(keystore.key("mc-a", pending.spki_sha256))
    assert keys.spki_sha256(key.public_key()) == pending.spki_sha256


def test_keys_and_folders_are_private(keystore: Keystore, folder: Path) -> None:
    certify(keystore, keystore.request_for(item()))
    keystore.request_for(item("job-2"))
    assert stat.S_IMODE((folder / "mc-a").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "mc-a").iterdir()} == {0o600}


class Died(Exception):
    """In place of SIGKILL."""


@pytest.mark.parametrize("point", ["keystore.request_written", "keystore.key_written"])
def test_killed_while_it_makes_a_key_it_leaves_none_without_its_request(
    keystore: Keystore, folder: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def die(passed: str) -> None:
        if passed == point:
            raise Died

    for _ in range(2):
        with monkeypatch.context() as patch, suppress(Died):
            patch.setattr(module, "crash_point", die)
            keystore.request_for(item())
        keystore.sweep()
    pending = keystore.request_for(item())
    assert names(folder) == {pending.spki_sha256, f"{pending.spki_sha256}.request"}


def test_the_same_job_gets_the_same_key_and_request(keystore: Keystore, folder: Path) -> None:
    pending = keystore.request_for(item())
    assert Keystore(folder).request_for(item()) == pending


def test_another_job_gets_another_key_and_the_old_one_stays(keystore: Keystore, folder: Path) -> None:
    first, second = keystore.request_for(item()), keystore.request_for(item("job-2"))
    assert first.spki_sha256 != second.spki_sha256
    assert names(folder) == {first.spki_sha256, second.spki_sha256, f"{second.spki_sha256}.request"}


def test_an_answer_is_kept_and_ends_the_request(keystore: Keystore, folder: Path) -> None:
    pending = keystore.request_for(item())
    der = certify(keystore, pending)
    assert names(folder) == {pending.spki_sha256, f"{pending.spki_sha256}.pem"}
    assert pem_to_chain((folder / "mc-a" / f"{pending.spki_sha256}.pem").read_bytes()) == (der,)


def test_an_answer_for_another_key_is_refused(keystore: Keystore, folder: Path) -> None:
    other = certify(keystore, keystore.request_for(item("job-0")))
    pending = keystore.request_for(item())
    for chain in ((), (other,), (b"no certificate",)):
        with pytest.raises(InvalidInput):
            keystore.answer("mc-a", pending.spki_sha256, chain)
    assert f"{pending.spki_sha256}.request" in names(folder)
    assert f"{pending.spki_sha256}.pem" not in names(folder)


def test_prune_keeps_what_is_in_use_and_three_more(keystore: Keystore, folder: Path) -> None:
    made = []
    for number in range(8):
        pending = keystore.request_for(item(f"job-{number}"))
        certify(keystore, pending)
        os.utime(folder / "mc-a" / pending.spki_sha256, (number, number))
        made.append(pending.spki_sha256)
    waiting = keystore.request_for(item("job-9")).spki_sha256
    os.utime(folder / "mc-a" / waiting, (0, 0))
    keystore.prune("mc-a", made[2])
    kept = {name for name in names(folder) if "." not in name}
    assert kept == {made[2], *made[-(KEPT_KEYS - 1) :], waiting}
    assert {name.removesuffix(".pem") for name in names(folder) if name.endswith(".pem")} == kept - {waiting}


def test_a_clock_that_jumped_back_makes_no_new_key_an_old_one(keystore: Keystore, folder: Path) -> None:
    """The newest key looks oldest by its file, and its certificate says that it is not; it is not in use yet."""
    made = []
    for number in range(KEPT_KEYS + 1):
        pending = keystore.request_for(item(f"job-{number}"))
        certify(keystore, pending, later=timedelta(minutes=number))
        made.append(pending.spki_sha256)
    os.utime(folder / "mc-a" / made[-1], (0, 0))
    keystore.prune("mc-a", made[-2])
    assert {name for name in names(folder) if "." not in name} == {*made[1:]}


def test_a_request_that_does_not_fit_leaves_no_key_behind(keystore: Keystore, folder: Path) -> None:
    """Each attempt makes a key; on a full disk nothing would be left but keys."""
    with room_for(300), pytest.raises(Transient, match=r"writing .*\.request failed at"):
        keystore.request_for(item())
    assert names(folder) == set()


def test_a_key_that_never_got_a_chain_goes_once_a_younger_one_is_in_use(keystore: Keystore, folder: Path) -> None:
    lost = keystore.request_for(item("job-1")).spki_sha256
    used = keystore.request_for(item("job-2"))
    certify(keystore, used)
    younger = keystore.request_for(item("job-3")).spki_sha256
    for age, name in enumerate((lost, used.spki_sha256, younger)):
        os.utime(folder / "mc-a" / name, (age, age))
    (folder / "mc-a" / f"{younger}.request").unlink()
    keystore.prune("mc-a", used.spki_sha256)
    assert {name for name in names(folder) if "." not in name} == {used.spki_sha256, younger}


def test_a_prune_that_was_cut_off_leaves_no_chain_without_its_key(
    keystore: Keystore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [keystore.request_for(item(f"job-{number}")) for number in range(KEPT_KEYS + 1)]
    for age, pending in enumerate(made):
        certify(keystore, pending)
        os.utime(folder / "mc-a" / pending.spki_sha256, (age, age))

    def cut(point: str) -> None:
        if point == "keystore.key_removed":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "crash_point", cut)
        with pytest.raises(KeyboardInterrupt):
            keystore.prune("mc-a", made[-1].spki_sha256)
    assert len(names(folder)) == 2 * KEPT_KEYS + 1
    keystore.sweep()
    assert {f"{name}.pem" for name in names(folder) if "." not in name} == {
        name for name in names(folder) if name.endswith(".pem")
    }
    assert len(names(folder)) == 2 * KEPT_KEYS


@pytest.mark.parametrize("damage", ["{", '{"job_id": "job-1"}', "\x00\xff", ""])
def test_a_damaged_request_is_made_anew(keystore: Keystore, folder: Path, damage: str) -> None:
    pending = keystore.request_for(item())
    (folder / "mc-a" / f"{pending.spki_sha256}.request").write_text(damage, encoding="latin-1")
    again = keystore.request_for(item())
    assert again.spki_sha256 != pending.spki_sha256
    assert keystore.request_for(item()) == again


def test_a_request_whose_key_is_gone_is_made_anew(keystore: Keystore, folder: Path) -> None:
    pending = keystore.request_for(item())
    (folder / "mc-a" / pending.spki_sha256).unlink()
    again = keystore.request_for(item())
    assert again.spki_sha256 != pending.spki_sha256
    assert keystore.key("mc-a", again.spki_sha256).reveal()


def test_a_request_under_another_keys_name_is_not_believed(keystore: Keystore, folder: Path) -> None:
    pending = keystore.request_for(item())
    path = folder / "mc-a" / f"{pending.spki_sha256}.request"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(pending, spki_sha256="../../x")))
    assert keystore.request_for(item()).spki_sha256 != pending.spki_sha256


@pytest.mark.parametrize(
    "certificate_id", ["", ".", "..", "mc-", "mc-..", "mc-a/b", "../mc-a", "mc-a\0", "mc-a\n", "MC-a", "mc-a-"]
)
def test_an_id_that_leads_elsewhere_is_refused(keystore: Keystore, folder: Path, certificate_id: str) -> None:
    with pytest.raises(InvalidInput, match="certificate_id"):
        keystore.request_for(item(certificate_id=certificate_id))
    with pytest.raises(InvalidInput, match="certificate_id"):
        keystore.key(certificate_id, "0" * 64)
    with pytest.raises(InvalidInput, match="certificate_id"):
        keystore.prune(certificate_id, "0" * 64)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "../../etc/shadow", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n"])
def test_a_key_name_that_leads_elsewhere_is_refused(keystore: Keystore, name: str) -> None:
    with pytest.raises(InvalidInput, match="spki_sha256"):
        keystore.key("mc-a", name)
    with pytest.raises(InvalidInput, match="spki_sha256"):
        keystore.answer("mc-a", name, ())


def test_a_key_that_is_not_here_is_told_and_nothing_is_made(keystore: Keystore, folder: Path) -> None:
    with pytest.raises(NotFound, match="Renew the certificate"):
        keystore.key("mc-a", "0" * 64)
    assert list(folder.iterdir()) == []


def test_an_unknown_algorithm_is_refused(keystore: Keystore) -> None:
    with pytest.raises(InvalidInput, match="'rsa-512', which this agent does not know"):
        keystore.request_for(item(algorithm="rsa-512"))


def test_what_a_crash_left_half_written_is_swept(keystore: Keystore, folder: Path) -> None:
    pending = keystore.request_for(item())
    (folder / "mc-a" / f".{'0' * 64}.4711").write_text("half a key")
    keystore.sweep()
    assert names(folder) == {pending.spki_sha256, f"{pending.spki_sha256}.request"}


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Take away this process's right to enter a folder; root becomes somebody else, who never had it."""
    before = os.geteuid()
    folder.chmod(0o000)
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_entered_is_explained(keystore: Keystore, folder: Path) -> None:
    pending = keystore.request_for(item())
    with without_rights(folder):
        with pytest.raises(Misconfigured, match=r"reading a private key failed at .*mc-a.*: the agent \(uid \d+\)"):
            keystore.key("mc-a", pending.spki_sha256)
        with pytest.raises(Misconfigured, match="keeping a private key failed"):
            keystore.request_for(item("job-2"))
        with pytest.raises(Misconfigured, match="removing old private keys failed"):
            keystore.prune("mc-a", pending.spki_sha256)


def test_something_else_in_the_folders_place_is_explained(keystore: Keystore, folder: Path) -> None:
    (folder / "mc-a").write_text("a file in the way")
    with pytest.raises(CertctlError, match="keeping a private key failed"):
        keystore.request_for(item())
