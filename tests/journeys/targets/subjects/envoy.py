"""Envoy with a listener from a file (LDS), whose certificate comes from the target's secret file (SDS)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import Site, toml_string, write_placeholder
from connectors.targets.base import CONFIG_MARK
from tests.journeys.targets.subject import PROBE_S, SITE, OneProgram
from tests.programs import ENVOY

_API = "type.googleapis.com/envoy"


class Envoy(OneProgram):
    """One Envoy with one listener."""

    target_type = "envoy"
    layout: ClassVar[str] = "current"
    skips: ClassVar = {"failing reload": "Envoy has no reload that could fail: it watches a folder"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)
        self.conf, self.listeners = folder / "envoy.yaml", folder / "lds.yaml"
        self.site, self.other = (Site(SITE, folder / name) for name in ("live", "other"))
        for site in (self.site, self.other):
            _sds(site).parent.mkdir(parents=True)
            write_placeholder(site)
            pair = {"certificate_chain": _file(site.cert_path), "private_key": _file(site.key_path)}
            _replace(_sds(site), {"@type": _tls("Secret"), "name": "certctl", "tls_certificate": pair})
        self.mend()
        argv = [ENVOY, "-c", str(self.conf), "--disable-hot-restart", "--concurrency", "2", "--log-level", "info"]
        self.process = Process(folder.name, argv, folder / "server.log")

    @classmethod
    def version(cls) -> str:
        """Return what ``envoy --version`` says, without the commit."""
        said = subprocess.run([ENVOY, "--version"], capture_output=True, text=True, check=True).stdout
        return f"envoy {said.partition(' version: ')[2].split('/')[1]}"

    def policy(self) -> str:
        """Return a service; there is no command that reloads."""
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.envoy]\ntype = 'envoy'\n"
            f"binary = {toml_string(ENVOY)}\nconfig = {toml_string(self.conf)}\n"
        )

    def config(self) -> dict[str, Any]:
        """Return the paths that the secret file names, and its own."""
        paths = {"cert_path": str(self.site.cert_path), "key_path": str(self.site.key_path), "layout": self.layout}
        return {**paths, "sds_path": str(_sds(self.site)), "probe": {"port": self._port, "timeout_s": PROBE_S}}

    def pair(self) -> tuple[bytes, bytes]:
        """Return what the secret file names."""
        return self.site.cert_path.read_bytes(), self.site.key_path.read_bytes()

    def reload(self) -> None:
        """Let it read certificate and key again."""
        copied = _sds(self.site).with_name("again")
        shutil.copy(_sds(self.site), copied)
        copied.replace(_sds(self.site))

    def damage(self) -> None:
        """Put a typing error into envoy.yaml."""
        self.conf.write_text(self.conf.read_text().replace("lds_config", "lsd_config"))

    def divert(self) -> None:
        """Let the listener take another secret file."""
        _replace(self.listeners, _listener(self._port, _sds(self.other)))

    def mend(self) -> None:
        """Let the listener take the target's secret file."""
        lds = {"path_config_source": {"path": str(self.listeners)}, "resource_api_version": "V3"}
        node = {"id": "envoy", "cluster": "journeys"}
        self.conf.write_text(json.dumps({"node": node, "dynamic_resources": {"lds_config": lds}}))
        _replace(self.listeners, _listener(self._port, _sds(self.site)))


SUBJECTS = (Envoy,)


def _sds(site: Site) -> Path:
    return site.folder / "sds" / "certctl.yaml"


def _file(path: Path) -> dict[str, str]:
    return {"filename": str(path)}


def _tls(name: str) -> str:
    return f"{_API}.extensions.transport_sockets.tls.v3.{name}"


def _replace(path: Path, resource: dict[str, Any]) -> None:
    """Write a file of one resource by one rename, the only change that Envoy notices."""
    written = path.with_suffix(".written")
    written.write_text(f"{CONFIG_MARK.decode()}\n{json.dumps({'resources': [resource]})}\n")
    written.replace(path)


def _listener(port: int, sds: Path) -> dict[str, Any]:
    """Describe a listener that answers every request."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": f"{_API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_API}.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    source = {"path_config_source": {"path": str(sds)}, "resource_api_version": "V3"}
    common = {"tls_certificate_sds_secret_configs": [{"name": "certctl", "sds_config": source}]}
    tls = {"@type": _tls("DownstreamTlsContext"), "common_tls_context": common}
    return {
        "@type": f"{_API}.config.listener.v3.Listener",
        "name": "web",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": {"name": "tls", "typed_config": tls},
            }
        ],
    }
