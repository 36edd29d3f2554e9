"""Traefik as the Ingress controller of the real API server, where both are there: it watches an Ingress and its Secret.

It runs outside of a cluster, with the rights of an administrator.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.wire import look
from tests.peers.kubernetes.peer import MERGE, Peer, answered
from tests.programs import TRAEFIK

_NAME = "shop"
_GROUP = "/apis/networking.k8s.io/v1"


class Ingress:
    """An Ingress for one host name, with the certificate of a Secret, served by Traefik on a free port."""

    def __init__(
        self,
        peer: Peer,
        namespace: str,
        secret: str,
        host: str,
        folder: Path,
        annotations: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.port, backend = free_ports(2)
        self._annotations = dict(annotations)
        self._peer, self._namespace, self._secret, self._host = peer, namespace, secret, host
        self._token = folder / "traefik.token"
        provider = {
            "endpoint": peer.url,
            "token": str(self._token),
            "certauthfilepath": peer.ca_path,
            "allowexternalnameservices": "true",
            "throttleduration": "50ms",
        }
        argv = [
            *(str(TRAEFIK), f"--entrypoints.web.address=127.0.0.1:{self.port}", "--entrypoints.web.http.tls=true"),
            *(f"--providers.kubernetesingress.{key}={value}" for key, value in provider.items()),
            *("--providers.providersthrottleduration=50ms", "--log.level=INFO"),
        ]
        self.process = Process("traefik", argv, folder / "traefik.log")
        self._backend = ThreadingHTTPServer(("127.0.0.1", backend), _Page)

    @property
    def secret(self) -> str:
        """Return which Secret is served; another one may be named at any time."""
        return self._secret

    @secret.setter
    def secret(self, name: str) -> None:
        if name != self._secret:
            self._secret = name
            content = json.dumps({"spec": {"tls": [{"hosts": [self._host], "secretName": name}]}})
            path = f"{_GROUP}/namespaces/{self._namespace}/ingresses/{_NAME}"
            answered(self._peer.admin.patch(path, content=content, headers={"Content-Type": MERGE}))

    def start(self) -> None:
        """Make the Ingress with a page behind it, and wait until the Secret's certificate is served."""
        threading.Thread(target=self._backend.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        port = self._backend.server_port
        self._make(
            f"/api/v1/namespaces/{self._namespace}/services",
            {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
        )
        to = {"service": {"name": _NAME, "port": {"number": port}}}
        rule = {"host": self._host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": to}]}}
        tls = [{"hosts": [self._host], "secretName": self._secret}]
        self._make(f"{_GROUP}/namespaces/{self._namespace}/ingresses", {"rules": [rule], "tls": tls})
        self._token.write_text(self._peer.admin_token)
        self.process.start()
        self.process.await_ready(self._serves)

    def stop(self) -> None:
        """Stop Traefik and the page."""
        self.process.stop()
        self._backend.shutdown()
        self._backend.server_close()

    def _serves(self) -> bool:
        seen = look(self.port, self._host)
        return seen is not None and self._host.encode() in seen.der

    def _make(self, path: str, spec: dict[str, Any]) -> None:
        metadata = {"name": _NAME, "annotations": self._annotations}
        answered(self._peer.admin.post(path, content=json.dumps({"metadata": metadata, "spec": spec})))


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
