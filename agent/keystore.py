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

from agent.files import sync_folder, write_private
from core import keys
from core.certificates import chain_to_pem, read_certificate
from core.crash import crash_point
from core.csr import build_csr
from core.errors import InvalidInput, NotFound
from core.secret import Secret
from core.wire import IssuanceItem

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
    """The keys of this host. Its methods block on the disk: call them in a worker thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def request_for(self, item: IssuanceItem) -> PendingRequest:
        """Return the job's CSR; the same one when it was made before and not answered."""
        folder = self._certificate_folder(item.certificate_id)
        for path in folder.glob("*.request"):
            pending = msgspec.json.decode(path.read_bytes(), type=PendingRequest)
            if pending.job_id == item.job_id:
                return pending
            path.unlink()
        return self._new_request(folder, item)

    def _new_request(self, folder: Path, item: IssuanceItem) -> PendingRequest:
        try:
            algorithm = keys.KeyAlgorithm(item.key_algorithm)
        except ValueError as error:
            raise InvalidInput.of(
                "key_algorithm", f"is {item.key_algorithm!r}, which this agent does not know"
            ) from error
        started = time.perf_counter()
        key = keys.generate(algorithm)
        name = keys.spki_sha256(key.public_key())
        write_private(folder / name, keys.to_pem(key).reveal())
        crash_point("keystore.key_written")
        made = time.perf_counter()
        csr = build_csr(key, item.common_name, item.names)
        key_ms, csr_ms = (made - started) * 1000, (time.perf_counter() - made) * 1000
        pending = PendingRequest(item.job_id, name, csr, round(key_ms, 3), round(csr_ms, 3))
        write_private(folder / f"{name}.request", msgspec.json.encode(pending))
        crash_point("keystore.request_written")
        return pending

    def answer(self, certificate_id: str, spki_sha256: str, chain: tuple[bytes, ...]) -> None:
        """Store the chain that certifies a key; raise ``InvalidInput`` when it certifies another one."""
        if not chain or read_certificate(chain[0]).spki_sha256 != spki_sha256:
            raise InvalidInput.of("chain", "does not certify the key that was asked for")
        folder = self._certificate_folder(certificate_id)
        write_private(folder / f"{spki_sha256}.pem", chain_to_pem(chain))
        crash_point("keystore.chain_written")
        (folder / f"{spki_sha256}.request").unlink(missing_ok=True)

    def key(self, certificate_id: str, spki_sha256: str) -> Secret[bytes]:
        """Return a private key in PEM; raise ``NotFound`` when it is not on this host."""
        if not _NAME.fullmatch(spki_sha256):
            raise InvalidInput.of("spki_sha256", "is not a SHA-256 in lower-case hex")
        path = self._certificate_folder(certificate_id) / spki_sha256
        try:
            return Secret(path.read_bytes())
        except FileNotFoundError as error:
            detail = (
                f"the private key {spki_sha256[:16]}… is not on this host; was the agent's key folder replaced? "
                "Renew the certificate to make a new one"
            )
            raise NotFound(detail) from error

    def prune(self, certificate_id: str, in_use: str) -> None:
        """Remove keys that are older than the one in use by more generations than are kept."""
        folder = self._certificate_folder(certificate_id)
        names = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
        names.sort(key=lambda path: (path.name == in_use, path.stat().st_mtime_ns), reverse=True)
        for path in names[KEPT_KEYS:]:
            if not (folder / f"{path.name}.request").exists():
                path.with_name(f"{path.name}.pem").unlink(missing_ok=True)
                path.unlink()

    def _certificate_folder(self, certificate_id: str) -> Path:
        """Return a certificate's folder. Its name comes from the coordinator, so it is checked before it is a path."""
        if not _CERTIFICATE.fullmatch(certificate_id):
            raise InvalidInput.of("certificate_id", "is not a certificate's id; nothing is stored under it")
        folder = self._folder / certificate_id
        if not folder.exists():
            folder.mkdir(mode=0o700)
            sync_folder(self._folder)
        return folder
