"""What tests ask of an API server, real or not: a client that may do all, and accounts that may do little."""

from __future__ import annotations

import json
import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import trustme

VERBS = ("get", "create", "patch", "delete")
"""What the documents say that certctl needs on a Secret."""

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Peer(ABC):
    """One API server on a free port of 127.0.0.1, with a certificate by an authority of its own."""

    admin_token = "token-of-an-administrator"

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"https://127.0.0.1:{port}"
        self.ca_path, self.cert_path, self.key_path = (folder / name for name in ("ca.pem", "server.pem", "server.key"))
        authority = trustme.CA()
        identity = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(self.ca_path)
        identity.private_key_pem.write_to_path(self.key_path)
        self.cert_path.write_bytes(b"".join(blob.bytes() for blob in identity.cert_chain_pems))
        self.admin = self.client(self.admin_token)

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it."""

    @abstractmethod
    def add_namespace(self, namespace: str) -> None:
        """Make a namespace."""

    @abstractmethod
    def grant(self, namespace: str, secret: str, verbs: Sequence[str] = VERBS) -> str:
        """Make a service account that may do this with one Secret and nothing else; return a token of it."""

    @abstractmethod
    def allow(self, namespace: str, secret: str, verbs: Sequence[str] = VERBS) -> None:
        """Let the Secret's account do exactly this from now on."""

    def client(self, token: str) -> httpx.Client:
        """Return an HTTP client with a token."""
        context = ssl.create_default_context(cafile=str(self.ca_path))
        return httpx.Client(base_url=self.url, verify=context, headers={"Authorization": f"Bearer {token}"})

    def kubeconfig(self, token: str, path: Path, *, current: str = "nobody", **cluster: Any) -> Path:
        """Write a kubeconfig with two contexts, of which ``certctl`` holds the token and ``nobody`` nothing."""
        cluster = {"server": self.url, "certificate-authority": str(self.ca_path), **cluster}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": current,
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "certctl", "user": {"token": token}}, {"name": "nobody", "user": {"token": "unknown"}}],
            "contexts": [{"name": who, "context": {"cluster": "lab", "user": who}} for who in ("certctl", "nobody")],
        }
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path

    # --- as somebody else --------------------------------------------------------------------------------------------

    def read(self, namespace: str, secret: str) -> dict[str, Any] | None:
        """Return a Secret, None when there is none."""
        answer = self.admin.get(_path(namespace, secret))
        return None if answer.status_code == httpx.codes.NOT_FOUND else answered(answer)

    def create(self, namespace: str, secret: str, manager: str, **fields: Any) -> dict[str, Any]:
        """Create a Secret as another manager."""
        body = {"apiVersion": "v1", "kind": "Secret", **fields}
        body["metadata"] = {"name": secret, **fields.get("metadata", {})}
        return answered(self.admin.post(_path(namespace), params={"fieldManager": manager}, json=body))

    def change(self, namespace: str, secret: str, manager: str, **fields: Any) -> dict[str, Any]:
        """Change fields of a Secret as another manager, whoever owns them."""
        content = json.dumps(fields)
        headers = {"Content-Type": MERGE}
        params = {"fieldManager": manager}
        return answered(self.admin.patch(_path(namespace, secret), params=params, headers=headers, content=content))

    def delete(self, namespace: str, secret: str) -> None:
        """Delete a Secret."""
        answered(self.admin.delete(_path(namespace, secret)))


def owners(secret: dict[str, Any], *path: str) -> set[str]:
    """Return the managers that own a field, as ``owners(secret, "f:data", "f:tls.crt")``."""
    found = set()
    for entry in secret["metadata"].get("managedFields", ()):
        fields: Any = entry["fieldsV1"]
        for step in path:
            fields = fields.get(step) if isinstance(fields, dict) else None
        if fields is not None:
            found.add(entry["manager"])
    return found


def _path(namespace: str, secret: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/secrets" + (f"/{secret}" if secret else "")


def answered(answer: httpx.Response) -> dict[str, Any]:
    """Return what was answered; fail for an error."""
    assert answer.is_success, answer.text
    body: dict[str, Any] = answer.json()
    return body
