"""Who this agent is: its own keys and, once enrolled, its id. All of it stays in STATE_DIR/identity (0700)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.files import write_private
from core.crash import crash_point
from core.errors import Misconfigured

_RAW = serialization.Encoding.Raw
_PUBLIC = serialization.PublicFormat.Raw
_PRIVATE = serialization.PrivateFormat.Raw
_PLAIN = serialization.NoEncryption()


@dataclass
class Identity:
    """The agent's keys; ``agent_id`` is empty until the coordinator knows them."""

    folder: Path
    signing: Ed25519PrivateKey
    sealing: X25519PrivateKey
    agent_id: str = ""

    @property
    def signing_public(self) -> bytes:
        """Return the raw public key that checks this agent's signatures."""
        return self.signing.public_key().public_bytes(_RAW, _PUBLIC)

    @property
    def sealing_public(self) -> bytes:
        """Return the raw public key that secrets for this agent are sealed to."""
        return self.sealing.public_key().public_bytes(_RAW, _PUBLIC)

    def enrolled_as(self, agent_id: str) -> None:
        """Remember the id that enrollment gave."""
        write_private(self.folder / "agent-id", agent_id.encode())
        crash_point("identity.enrolled")
        self.agent_id = agent_id


def load_identity(state_dir: Path) -> Identity:
    """Return this agent's identity; its keys are made at the first start."""
    folder = state_dir / "identity"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        signing = Ed25519PrivateKey.from_private_bytes(_key(folder / "signing.key", Ed25519PrivateKey))
        sealing = X25519PrivateKey.from_private_bytes(_key(folder / "sealing.key", X25519PrivateKey))
    except ValueError as error:
        message = f"CERTCTL_STATE_DIR: a key in {folder} is damaged; restore it, or remove the folder and enroll again"
        raise Misconfigured(message) from error
    agent_id = folder / "agent-id"
    return Identity(folder, signing, sealing, agent_id.read_text().strip() if agent_id.exists() else "")


def _key(path: Path, kind: type[Ed25519PrivateKey | X25519PrivateKey]) -> bytes:
    if not path.exists():
        write_private(path, kind.generate().private_bytes(_RAW, _PRIVATE, _PLAIN))
    return path.read_bytes()
