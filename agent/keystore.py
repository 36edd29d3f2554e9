"""Private keys: made here, kept here, never overwritten, never sent.

One folder (0700) for each certificate; a file for each key, named by the SHA-256 of its SPKI: ``<name>`` is the key
(0600, PKCS#8 PEM), ``<name>.request`` the CSR that has no answer yet, ``<name>.pem`` the chain that answered it. A key
is on disk before its CSR leaves.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
import structlog
from cryptography import x509

from agent.files import explained, make_private_folder, sweep, write_private
from core import keys
from core.certificates import chain_to_pem, read_certificate
from core.crash import crash_point
from core.csr import build_csr
from core.errors import InvalidInput, NotFound
from core.secret import Secret
from core.wire import IssuanceItem

log = structlog.get_logger(__name__)
KEPT_KEYS = 4
"""The key in use and those of three generations before it, as many as targets keep backups."""
_CERTIFICATE = re.compile(r"mc-[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_NAME = re.compile(r"[0-9a-f]{64}")


class PendingRequest(msgspec.Struct, frozen=True):
    """A CSR (DER) made for a job, not answered yet; the durations are those of making it."""

    job_id: str
    spki_sha256: str
    csr: bytes
    key_ms: float = 0.0
    csr_ms: float = 0.0


class Keystore:
    """The keys of this host. Its methods block on the disk: call them in a worker thread.

    All of them raise ``InvalidInput`` for an id or a name that could lead elsewhere, and ``Transient`` or
    ``Misconfigured`` with a human cause when the disk does not do what is asked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sweep(self) -> None:
        """Remove what a crash left half-written or half-removed. Call it before anything else, while nobody writes."""
        with explained("tidying the key folder"):
            sweep(self._folder, "mc-*/.*")
            for chain in self._folder.glob("mc-*/*.pem"):
                if not chain.with_suffix("").exists():
                    chain.unlink()
            for request in self._folder.glob("mc-*/*.request"):
                if not request.with_suffix("").exists():
                    request.unlink()

    def request_for(self, item: IssuanceItem, given: Secret[bytes] | None = None) -> PendingRequest:
        """Return the job's CSR; the same one when it was made before and not answered.

        ``given`` is a key (PEM) to be used in place of a new one.
        """
        folder = self._certificate_folder(item.certificate_id)
        with explained("keeping a private key"):
            make_private_folder(folder)
            for path in folder.glob("*.request"):
                pending = _read_pending(path)
                if pending is not None and pending.job_id == item.job_id:
                    return pending
                path.unlink()
                crash_point("keystore.request_dropped")
        return self._new_request(folder, item, given)

    def _new_request(self, folder: Path, item: IssuanceItem, given: Secret[bytes] | None) -> PendingRequest:
        try:
            algorithm = keys.KeyAlgorithm(item.key_algorithm)
        except ValueError as error:
            problem = f"is {item.key_algorithm[:80]!r}, which this agent does not know"
            raise InvalidInput.of("key_algorithm", problem) from error
        started = time.perf_counter()
        key = keys.generate(algorithm) if given is None else keys.from_pem(given)
        name = keys.spki_sha256(key.public_key())
        made = time.perf_counter()
        csr = build_csr(key, item.common_name, item.names)
        key_ms, csr_ms = (made - started) * 1000, (time.perf_counter() - made) * 1000
        pending = PendingRequest(item.job_id, name, csr, round(key_ms, 3), round(csr_ms, 3))
        # The request first: cut off in between, it is known to be worthless, where a key alone may be a version's.
        write_private(folder / f"{name}.request", msgspec.json.encode(pending))
        crash_point("keystore.request_written")
        write_private(folder / name, keys.to_pem(key).reveal())
        crash_point("keystore.key_written")
        return pending

    def unanswered(self) -> list[tuple[str, PendingRequest]]:
        """Return the requests that have no answer yet, with their certificates."""
        with explained("reading requests"):
            found = [(path.parent.name, _read_pending(path)) for path in sorted(self._folder.glob("mc-*/*.request"))]
        return [(certificate_id, pending) for certificate_id, pending in found if pending is not None]

    def answer(self, certificate_id: str, spki_sha256: str, chain: tuple[bytes, ...]) -> None:
        """Store the chain that certifies a key; raise ``InvalidInput`` when it certifies another one."""
        path = self._certificate_folder(certificate_id) / _checked(spki_sha256)
        if not chain or read_certificate(chain[0]).spki_sha256 != spki_sha256:
            raise InvalidInput.of("chain", "does not certify the key that was asked for")
        write_private(path.with_name(f"{path.name}.pem"), chain_to_pem(chain))
        crash_point("keystore.chain_written")
        with explained("removing an answered request"):
            path.with_name(f"{path.name}.request").unlink(missing_ok=True)
        crash_point("keystore.answered")

    def settle(self, certificate_id: str, spki_sha256: str, chain: tuple[bytes, ...]) -> None:
        """Store the chain of a key whose request is still open: its answer came as a deployment."""
        path = self._certificate_folder(certificate_id) / _checked(spki_sha256)
        if path.with_name(f"{path.name}.request").exists():
            self.answer(certificate_id, spki_sha256, chain)

    def key(self, certificate_id: str, spki_sha256: str) -> Secret[bytes]:
        """Return a private key in PEM; raise ``NotFound`` when it is not on this host."""
        path = self._certificate_folder(certificate_id) / _checked(spki_sha256)
        with explained("reading a private key"):
            if path.exists():
                return Secret(path.read_bytes())
        detail = (
            f"the private key {spki_sha256[:16]}… is not on this host; was the agent's key folder replaced? "
            "Renew the certificate to make a new one"
        )
        raise NotFound(detail)

    def prune(self, certificate_id: str, in_use: str) -> None:
        """Remove keys that are older than the one in use by more generations than are kept.

        A key that is older and never got a chain is nobody's: its request was lost or replaced. It goes at once.
        """
        folder = self._certificate_folder(certificate_id)
        with explained("removing old private keys"):
            keys_here = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
            keys_here.sort(key=lambda path: (path.name == in_use, *_age(path)), reverse=True)
            used = folder / in_use
            made = used.stat().st_mtime_ns if used.exists() else 0
            owned = [path for path in keys_here if path == used or _has_owner(path, made)]
            kept = {*owned[:KEPT_KEYS]}
            for path in keys_here:
                if path not in kept and not path.with_name(f"{path.name}.request").exists():
                    _remove_key(path)

    def _certificate_folder(self, certificate_id: str) -> Path:
        """Return a certificate's folder. Its name comes from the coordinator, so it is checked before it is a path."""
        if not _CERTIFICATE.fullmatch(certificate_id):
            raise InvalidInput.of("certificate_id", "is not a certificate's id; nothing is stored under it")
        return self._folder / certificate_id


def _age(path: Path) -> tuple[float, int]:
    """Return what orders keys by generation: what their certificates say, since this host's clock may have jumped."""
    made_ns = path.stat().st_mtime_ns
    try:
        leaf = x509.load_pem_x509_certificate(path.with_name(f"{path.name}.pem").read_bytes())
    except (FileNotFoundError, ValueError):
        return made_ns / 1e9, made_ns
    return leaf.not_valid_before_utc.timestamp(), made_ns


def _has_owner(path: Path, in_use_since_ns: int) -> bool:
    """Say whether a key has a chain or may still get one: a request, or it is younger than the key in use."""
    beside = (path.with_name(f"{path.name}.{kind}") for kind in ("pem", "request"))
    return path.stat().st_mtime_ns > in_use_since_ns or any(file.exists() for file in beside)


def _remove_key(path: Path) -> None:
    """Remove a key and its chain; the key first, so that no key is ever left without what tells its age and owner."""
    path.unlink()
    crash_point("keystore.key_removed")
    path.with_name(f"{path.name}.pem").unlink(missing_ok=True)
    crash_point("keystore.pruned")


def _checked(spki_sha256: str) -> str:
    if not _NAME.fullmatch(spki_sha256):
        raise InvalidInput.of("spki_sha256", "is not a SHA-256 in lower-case hex")
    return spki_sha256


def _read_pending(path: Path) -> PendingRequest | None:
    """Return a stored request; None when it or its key is damaged, so that a new one is made."""
    try:
        pending = msgspec.json.decode(path.read_bytes(), type=PendingRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pending = None
    if pending is None or pending.spki_sha256 != path.stem or not path.with_suffix("").exists():
        log.warning("damaged_request_dropped", path=str(path))
        return None
    return pending
