"""A TLS Secret and what serves it: on a double of the API server, and on the real one where it was built.

What serves it is a small reader of our own; on the real API server also Traefik, as the controller of an Ingress.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import trustme

from benchmarks.lab.processes import Process
from benchmarks.lab.servers import toml_string
from tests.journeys.targets.subject import PROBE_S, SITE, Subject
from tests.peers.kubernetes import cluster
from tests.peers.kubernetes.double import Double
from tests.peers.kubernetes.ingress import Ingress
from tests.peers.kubernetes.peer import Peer
from tests.peers.kubernetes.reader import Reader
from tests.programs import TRAEFIK, traefik_version

_NAMESPACE, _SECRET, _OTHER = "shop", "shop-tls", "another-tls"


class DoubledKubernetes(Subject):
    """One Secret that somebody made by hand, and a reader that serves it."""

    target_type = "kubernetes"
    variant = "double"
    peer_type: ClassVar[type[Double | cluster.Cluster]] = Double
    skips: ClassVar = {"failing reload": "nothing is reloaded: what reads a Secret follows it by itself"}
    unreached: ClassVar = frozenset({"deploy.reloaded"})
    broken_cause = "its role needs get, create, patch and delete"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.peer = self.peer_type(folder)
        self.reader = self._reader()
        self.process = _Peers(self.peer, self.reader, folder)

    def _reader(self) -> Reader | Ingress:
        return Reader(self.peer, _NAMESPACE, _SECRET)

    @classmethod
    def version(cls) -> str:
        """Return what it is."""
        return "a double of the Kubernetes API server; the reader is our own"

    def processes(self) -> Sequence[Process]:
        """Return both as one."""
        return [self.process]

    def start(self) -> None:
        """Start the API server, make Secrets and an account, and start to serve."""
        self.peer.start()
        self.peer.add_namespace(_NAMESPACE)
        for name in (_SECRET, _OTHER):
            made = trustme.CA().issue_cert(SITE)
            pair = {"tls.crt": made.cert_chain_pems[0], "tls.key": made.private_key_pem}
            data = {key: base64.b64encode(blob.bytes()).decode() for key, blob in pair.items()}
            self.peer.create(_NAMESPACE, name, "kubectl-create", type="kubernetes.io/tls", data=data)
        self.peer.kubeconfig(self.peer.grant(_NAMESPACE, _SECRET), self.folder / "kubeconfig")
        self.reader.start()

    def policy(self) -> str:
        """Return a service with the account's kubeconfig."""
        path = toml_string(self.folder / "kubeconfig")
        return f"[services.kubernetes]\ntype = 'kubernetes'\nconfig = {path}\ncontext = 'certctl'\n"

    def config(self) -> dict[str, Any]:
        """Return the Secret, to be taken over, and where it is served."""
        probe = {"port": self.reader.port, "timeout_s": PROBE_S}
        return {"namespace": _NAMESPACE, "secret_name": _SECRET, "force_conflicts": True, "probe": probe}

    def pair(self) -> tuple[bytes, bytes]:
        """Return what is in the Secret."""
        stored = self.peer.read(_NAMESPACE, _SECRET)
        assert stored is not None
        return base64.b64decode(stored["data"]["tls.crt"]), base64.b64decode(stored["data"]["tls.key"])

    def port(self) -> int:
        """Return the reader's port."""
        return self.reader.port

    def reload(self) -> None:
        """Do nothing: nothing is reloaded without certctl either."""

    def damage(self) -> None:
        """Take from the account the right to write."""
        self.peer.allow(_NAMESPACE, _SECRET, ["get"])

    def divert(self) -> None:
        """Let the reader follow another Secret."""
        self.reader.secret = _OTHER

    def mend(self) -> None:
        """Give the right back, and let the reader follow the target's Secret."""
        self.peer.allow(_NAMESPACE, _SECRET)
        self.reader.secret = _SECRET


class RealKubernetes(DoubledKubernetes):
    """The same on kube-apiserver and etcd."""

    variant = ""
    peer_type = cluster.Cluster

    @classmethod
    def version(cls) -> str:
        """Return the API server's version."""
        return f"kube-apiserver, {cluster.version()}; the reader is our own"


class IngressedKubernetes(RealKubernetes):
    """The same with Traefik, which watches an Ingress and its Secret."""

    variant = "traefik"
    quick = False

    def _reader(self) -> Ingress:
        return Ingress(self.peer, _NAMESPACE, _SECRET, SITE, self.folder)

    @classmethod
    def version(cls) -> str:
        """Return both versions."""
        return f"kube-apiserver, {cluster.version()}; {traefik_version()}"


class _Peers(Process):
    """An API server and a reader, stopped like a program."""

    def __init__(self, peer: Peer, reader: Reader | Ingress, folder: Path) -> None:
        super().__init__("kubernetes", [], folder / "apiserver.log")
        self._peer, self._reader = peer, reader

    def stop(self) -> None:
        """Stop both."""
        self._reader.stop()
        self._peer.stop()


_REAL = [RealKubernetes, *([IngressedKubernetes] if Path(TRAEFIK).exists() else [])]
SUBJECTS = (DoubledKubernetes, *(_REAL if cluster.is_built() else []))
