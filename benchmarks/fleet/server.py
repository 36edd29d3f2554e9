"""The one thing that is simulated: a TLS server that loads its files when it is told to, and shows what it loaded.

It stands in for the two ports of the deployment engine, ``Runner`` and ``Probe``. As a real server does, it goes on
with what it has when a pair cannot be loaded, and it outlives its agent: what it serves is kept in ``served.json``.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.policy import Action, HostPolicy
from connectors.probes.tls import Observation
from connectors.targets.base import Command, CommandResult, Service
from core.errors import Misconfigured, Transient

CHECK, RELOAD = "/simulated/check", "/simulated/reload"
FAILED = 1


class Pair(msgspec.Struct, frozen=True):
    """A certificate that was loaded with its key."""

    leaf: bytes
    fingerprint: str
    chain: tuple[bytes, ...] = ()


class SimulatedServer:
    """All sites of one agent's host."""

    def __init__(self, home: Path) -> None:
        self._live = home / "live"
        self._kept = home / "served.json"
        self._read: dict[str, tuple[bytes, Pair]] = {}
        self._live.mkdir(parents=True, exist_ok=True)
        self._serving: dict[str, Pair] = self._serving_before()

    def policy(self) -> HostPolicy:
        """Return the host's rules: files below ``live``, one service, its two commands."""
        return HostPolicy(
            allowed_paths=(str(self._live),),
            actions={"check": Action(argv=(CHECK,)), "reload": Action(argv=(RELOAD,))},
            services={"files": Service(name="files", type="files", validate_action="check", reload_action="reload")},
        )

    async def run(self, command: Command) -> CommandResult:
        """Check the files, or load them."""
        if command.argv[0] not in {CHECK, RELOAD}:
            raise Misconfigured(f"{command.argv[0]} cannot be run: there is no such program here")
        return await trio.to_thread.run_sync(self._load, command.argv[0] == RELOAD)

    async def probe(
        self, host: str, port: int, *, sni: str = "", timeout_s: float = 10.0, protocol: str = "tls"
    ) -> Observation:
        """Show what is served for a name."""
        del timeout_s, protocol
        await trio.lowlevel.checkpoint()
        pair = self._serving.get(sni)
        if pair is None:
            raise Transient(f"{host}:{port} refused the TLS handshake for {sni}: unrecognized name")
        return Observation(pair.leaf, pair.fingerprint, "TLSv1.3", 0.1, pair.chain)

    def _load(self, take: bool) -> CommandResult:  # noqa: FBT001 - a worker thread's function takes positions
        found: dict[str, Pair] = {}
        for folder in sorted(self._live.iterdir()):
            if not (folder / "fullchain.pem").exists():
                continue
            try:
                found[folder.name] = self._pair(folder)
            except (OSError, ValueError) as error:
                return CommandResult(FAILED, f"cannot load {folder}: {error}")
        if take:
            self._serving = found
            staged = self._kept.with_name(".served.json")
            staged.write_bytes(msgspec.json.encode({name: pair.fingerprint for name, pair in found.items()}))
            staged.replace(self._kept)
        return CommandResult(0, "")

    def _pair(self, folder: Path) -> Pair:
        """Return a site's pair; raise ``ValueError`` unless certificate and key belong together."""
        chain, key = (folder / "fullchain.pem").read_bytes(), (folder / "privkey.pem").read_bytes()
        known, pair = self._read.get(folder.name, (b"", None))
        together = sha256(chain + key).digest()
        if pair is not None and known == together:
            return pair
        certificates = x509.load_pem_x509_certificates(chain)
        if _spki(certificates[0].public_key()) != _spki(serialization.load_pem_private_key(key, None).public_key()):
            raise ValueError("key values mismatch")
        ders = tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in certificates)
        pair = Pair(ders[0], sha256(ders[0]).hexdigest(), ders)
        self._read[folder.name] = together, pair
        return pair

    def _serving_before(self) -> dict[str, Pair]:
        """Return what the server served when its agent's process ended: the server itself has not ended."""
        if not self._kept.exists():
            return {}
        kept: dict[str, str] = msgspec.json.decode(self._kept.read_bytes())
        return {name: Pair(b"", fingerprint) for name, fingerprint in kept.items()}


def _spki(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]  # any kind of public key has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
