"""cert-manager's controllers outside of the cluster, with the rights of an administrator; no webhook, no kubelet."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.lab.processes import REPOSITORY, Process, wait_until
from tests.peers.kubernetes import cluster
from tests.peers.kubernetes.cluster import Cluster
from tests.peers.kubernetes.peer import APPLY, MERGE, answered

PROGRAM = REPOSITORY / ".cache" / "acme" / "cert-manager"
_CRDS = PROGRAM.with_suffix(".yaml")
_MODULE = Path(__file__).with_name("go.mod").read_text()
VERSION = re.findall(r"github\.com/cert-manager/cert-manager v(\S+)$", _MODULE, re.MULTILINE)[0]
NAMESPACE = "cert-manager"
_PATIENCE_S = 120.0
"""It waits for a minute, the lifetime of its records, before it tells of one."""
_PLACES = {
    "Secret": "/api/v1/namespaces/{}/secrets",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ClusterIssuer": "/apis/cert-manager.io/v1/clusterissuers",
    "Certificate": "/apis/cert-manager.io/v1/namespaces/{}/certificates",
}
_STATES = (
    "/apis/cert-manager.io/v1/certificates",
    "/apis/acme.cert-manager.io/v1/orders",
    "/apis/acme.cert-manager.io/v1/challenges",
)


def is_built() -> bool:
    """Say whether both it and the API server were built here."""
    return PROGRAM.exists() and _CRDS.exists() and cluster.is_built()


class CertManager:
    """One cert-manager with its own kinds of resources, and what is asked of it by manifests."""

    def __init__(self, peer: Cluster, folder: Path, nameserver: str) -> None:
        self._peer = peer
        kubeconfig = peer.kubeconfig(peer.admin_token, folder / "cert-manager.kubeconfig", current="certctl")
        argv = [
            *(str(PROGRAM), f"--kubeconfig={kubeconfig}", f"--cluster-resource-namespace={NAMESPACE}"),
            *(f"--dns01-recursive-nameservers={nameserver}", "--dns01-recursive-nameservers-only"),
            "--feature-gates=ACMEUseARI=true",
        ]
        self.process = Process("cert-manager", argv, folder / "cert-manager.log")

    def start(self) -> None:
        """Make its kinds known, then run it."""
        self._peer.add_namespace(NAMESPACE)
        for name in self.apply(_CRDS.read_text()):
            path = f"{_PLACES['CustomResourceDefinition']}/{name}"
            wait_until(f"{name} is known", lambda path=path: "Established" in _met(self.get(path)))  # type: ignore[misc]
        self.process.start()

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()

    def apply(self, manifests: str) -> list[str]:
        """Apply some YAML as kubectl does on the server's side; return the names of what is there then."""
        names = list[str]()
        for manifest in yaml.safe_load_all(manifests):
            metadata = manifest["metadata"]
            path = f"{_PLACES[manifest['kind']].format(metadata.get('namespace'))}/{metadata['name']}"
            params = {"fieldManager": "kubectl", "force": "true"}
            headers = {"Content-Type": APPLY}
            answered(self._peer.admin.patch(path, params=params, headers=headers, content=yaml.safe_dump(manifest)))
            names.append(metadata["name"])
        return names

    def get(self, path: str) -> dict[str, Any]:
        """Return what is at a path, nothing when there is nothing."""
        answer = self._peer.admin.get(path)
        return {} if answer.status_code == httpx.codes.NOT_FOUND else answered(answer)

    def certificate(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a Certificate."""
        return self.get(f"{_PLACES['Certificate'].format(namespace)}/{name}")

    def await_issuer(self, name: str) -> None:
        """Wait until a ClusterIssuer has registered."""
        path = f"{_PLACES['ClusterIssuer']}/{name}"
        self.await_(lambda: "Ready" in _met(self.get(path)))

    def await_revision(self, namespace: str, name: str, revision: int) -> dict[str, Any]:
        """Wait until a Certificate is ready by its so many-th issuance; return it."""

        def done() -> bool:
            found = self.certificate(namespace, name)
            return "Ready" in _met(found) and found["status"].get("revision") == revision

        self.await_(done)
        return self.certificate(namespace, name)

    def await_(self, done: Callable[[], bool]) -> None:
        """Wait until ``done``; when it is not, say how everything stands."""
        try:
            self.process.await_ready(done, _PATIENCE_S)
        except TimeoutError as error:
            for path in (*_STATES, _PLACES["ClusterIssuer"]):
                for each in self.get(path)["items"]:
                    error.add_note(f"{each['kind']} {each['metadata']['name']}: {json.dumps(each.get('status'))}")
            raise

    def renew(self, namespace: str, name: str) -> None:
        """Issue it anew, by what ``cmctl renew`` writes."""
        told = {"status": "True", "reason": "ManuallyTriggered", "message": "Renewed by a test"}
        issuing = {"type": "Issuing", "lastTransitionTime": _now(), **told}
        conditions = self.certificate(namespace, name)["status"]["conditions"]
        self._write_status(namespace, name, {"conditions": [*conditions, issuing]})

    def ask_now(self, namespace: str, name: str) -> None:
        """Let it ask for renewal information at once, and not after the hour that is the least it waits."""
        self._write_status(namespace, name, {"acme": {"ari": {"nextCheck": _now()}}})

    def _write_status(self, namespace: str, name: str, status: dict[str, Any]) -> None:
        path = f"{_PLACES['Certificate'].format(namespace)}/{name}/status"
        content = json.dumps({"status": status})
        answered(self._peer.admin.patch(path, headers={"Content-Type": MERGE}, content=content))


def conditions(resource: dict[str, Any]) -> dict[str, str]:
    """Return the messages of a resource's conditions."""
    return {each["type"]: each.get("message", "") for each in resource.get("status", {}).get("conditions", ())}


def _met(resource: dict[str, Any]) -> set[str]:
    """Return which of its conditions hold."""
    found = resource.get("status", {}).get("conditions") or ()
    return {each["type"] for each in found if each["status"] == "True"}


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
