"""The real one: kube-apiserver on etcd, with TLS and RBAC. No kubelet and no controllers, which Secrets do not need."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.lab.processes import Process, free_ports, wait_until
from tests.peers.kubernetes.peer import MERGE, VERBS, Peer, answered

_MODULE = Path(__file__).with_name("go.mod").read_text()
_VERSION = re.findall(r"^\tk8s\.io/kubernetes (\S+)$", _MODULE, re.MULTILINE)[0]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "certctl" / "kubernetes" / _VERSION
PROGRAMS = tuple(CACHE / name for name in ("etcd", "kube-apiserver"))
_GROUP = "rbac.authorization.k8s.io"
_ACCOUNT = "certctl"


def is_built() -> bool:
    """Say whether ``make peers-kubernetes`` has been run here."""
    return all(program.exists() for program in PROGRAMS)


def version() -> str:
    """Return the API server's own words for its version."""
    return subprocess.run([PROGRAMS[1], "--version"], capture_output=True, text=True, check=True).stdout.strip()


class Cluster(Peer):
    """One API server and its etcd, with nothing in it."""

    def __init__(self, folder: Path) -> None:
        port, etcd, etcd_peer = free_ports(3)
        super().__init__(folder, port)
        tokens, account_key = folder / "tokens.csv", folder / "accounts.key"
        tokens.write_text(f"{self.admin_token},admin,admin,system:masters\n")
        tokens.chmod(0o600)
        account_key.write_bytes(self.key_path.read_bytes())
        urls = [f"http://127.0.0.1:{number}" for number in (etcd, etcd_peer)]
        store = [
            *("--name=lab", f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=error"),
            *(f"--listen-client-urls={urls[0]}", f"--advertise-client-urls={urls[0]}"),
            *(f"--listen-peer-urls={urls[1]}", f"--initial-advertise-peer-urls={urls[1]}"),
            f"--initial-cluster=lab={urls[1]}",
        ]
        server = [
            *(f"--etcd-servers={urls[0]}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
            *(f"--tls-cert-file={self.cert_path}", f"--tls-private-key-file={self.key_path}"),
            *(f"--token-auth-file={tokens}", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"),
            *("--service-account-issuer=https://lab.test", f"--service-account-signing-key-file={account_key}"),
            *(f"--service-account-key-file={account_key}", f"--cert-dir={folder}", "--endpoint-reconciler-type=none"),
        ]
        self.processes = [
            Process("etcd", [str(PROGRAMS[0]), *store], folder / "etcd.log"),
            Process("kube-apiserver", [str(PROGRAMS[1]), *server], folder / "apiserver.log"),
        ]

    def start(self) -> None:
        """Start etcd, then the API server."""
        for process in self.processes:
            process.start()
        self.processes[1].await_ready(self._ready, deadline_s=90)

    def stop(self) -> None:
        """Kill both: nothing of it is needed again."""
        self.admin.close()
        for process in reversed(self.processes):
            process.kill()

    def add_namespace(self, namespace: str) -> None:
        """Make a namespace."""
        self._make("/api/v1/namespaces", {"kind": "Namespace", "apiVersion": "v1"}, namespace)

    def grant(self, namespace: str, secret: str, verbs: Sequence[str] = VERBS) -> str:
        """Make a ServiceAccount with a Role of its own, and ask for a token."""
        core, rbac = f"/api/v1/namespaces/{namespace}", f"/apis/{_GROUP}/v1/namespaces/{namespace}"
        name = f"{_ACCOUNT}-{secret}"
        self._make(f"{core}/serviceaccounts", {"kind": "ServiceAccount", "apiVersion": "v1"}, name)
        kinds = {"apiVersion": f"{_GROUP}/v1"}
        self._make(f"{rbac}/roles", {"kind": "Role", **kinds, "rules": [_rule(secret, verbs)]}, name)
        binding = {
            "roleRef": {"apiGroup": _GROUP, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        self._make(f"{rbac}/rolebindings", {"kind": "RoleBinding", **kinds, **binding}, name)
        request = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}}
        asked = self.admin.post(f"{core}/serviceaccounts/{name}/token", json=request)
        token = str(answered(asked)["status"]["token"])
        self._await_role(namespace, secret, verbs)
        return token

    def allow(self, namespace: str, secret: str, verbs: Sequence[str] = VERBS) -> None:
        """Change the Role."""
        path = f"/apis/{_GROUP}/v1/namespaces/{namespace}/roles/{_ACCOUNT}-{secret}"
        content = json.dumps({"rules": [_rule(secret, verbs)]})
        answered(self.admin.patch(path, content=content, headers={"Content-Type": MERGE}))
        self._await_role(namespace, secret, verbs)

    def _await_role(self, namespace: str, secret: str, verbs: Sequence[str]) -> None:
        """Wait until the authorizer has heard of it."""
        wanted = {verb: verb in verbs for verb in VERBS}
        wait_until(
            "the role is in force", lambda: {verb: self._may(namespace, secret, verb) for verb in VERBS} == wanted
        )

    def _may(self, namespace: str, secret: str, verb: str) -> bool:
        attributes = {"namespace": namespace, "verb": verb, "resource": "secrets", "name": secret}
        user = f"system:serviceaccount:{namespace}:{_ACCOUNT}-{secret}"
        groups = ["system:serviceaccounts", "system:authenticated"]
        spec = {"resourceAttributes": attributes, "user": user, "groups": groups}
        review = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": spec}
        answer = self.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json=review)
        return bool(answered(answer)["status"]["allowed"])

    def _make(self, path: str, body: dict[str, object], name: str) -> None:
        answered(self.admin.post(path, content=json.dumps({**body, "metadata": {"name": name}})))

    def _ready(self) -> bool:
        try:
            return self.admin.get("/readyz").is_success
        except httpx.HTTPError:
            return False


def _rule(secret: str, verbs: Sequence[str]) -> dict[str, list[str]]:
    return {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": list(verbs)}
