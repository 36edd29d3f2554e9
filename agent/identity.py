"""Who this agent is: its own keys and, once enrolled, its id. All of it stays in STATE_DIR/identity (0700).

The keys are made at the first start and never again: enrolling twice with the same keys is harmless, and a folder that
is lost means a new agent. Its methods block on the disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.files import explained, make_private_folder, sweep, write_private
from core.crash import crash_point
from core.errors import Misconfigured

_RAW = serialization.Encoding.Raw
_PUBLIC = serialization.PublicFormat.Raw
_PRIVATE = serialization.PrivateFormat.Raw
_PLAIN = serialization.NoEncryption()
_AGENT_ID = re.compile(r"ag-[a-z0-9-]{1,64}")


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
        """Remember the id that enrollment gave; it becomes part of paths, so it is looked at first."""
        if not _AGENT_ID.fullmatch(agent_id):
            raise Misconfigured(f"the coordinator calls this agent {agent_id[:80]!r}, which is not an agent's id")
        write_private(self.folder / "agent-id", agent_id.encode())
        crash_point("identity.enrolled")
        self.agent_id = agent_id


def load_identity(state_dir: Path) -> Identity:
    """Return this agent's identity, made if there is none; raise ``Misconfigured`` when a file of it is damaged."""
    folder = state_dir / "identity"
    with explained("reading this agent's identity"):
        make_private_folder(folder)
        sweep(folder)
        try:
            signing = Ed25519PrivateKey.from_private_bytes(_key(folder / "signing.key", Ed25519PrivateKey))
            sealing = X25519PrivateKey.from_private_bytes(_key(folder / "sealing.key", X25519PrivateKey))
        except ValueError as error:
            remedy = "restore it, or remove the folder and enroll again"
            raise Misconfigured(f"CERTCTL_STATE_DIR: a key in {folder} is damaged; {remedy}") from error
        return Identity(folder, signing, sealing, _agent_id(folder / "agent-id"))


def _key(path: Path, kind: type[Ed25519PrivateKey | X25519PrivateKey]) -> bytes:
    if not path.exists():
        write_private(path, kind.generate().private_bytes(_RAW, _PRIVATE, _PLAIN))
        crash_point("identity.key_written")
    return path.read_bytes()


def _agent_id(path: Path) -> str:
    if not path.exists():
        return ""
    agent_id = path.read_bytes().decode(errors="replace").strip()
    if not _AGENT_ID.fullmatch(agent_id):
        remedy = "remove it; the agent then enrolls again with the same keys and gets the same id"
        raise Misconfigured(f"CERTCTL_STATE_DIR: {path} is damaged; {remedy}")
    return agent_id
