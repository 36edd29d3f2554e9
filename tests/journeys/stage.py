"""What journeys are played on: real programs in one folder, stopped in the end, and what a stranger sees of them."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from benchmarks.lab.fleet import API, Agent, Coordinator, Home
from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end, wait_until
from benchmarks.lab.servers import Nginx
from benchmarks.lab.wire import Seen, look, wait_for_change

SERVED_S = 40.0


class Stage:
    """Starts programs and keeps them in the order in which they were started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        self.coordinators: list[Coordinator] = []

    def keep(self, process: Process) -> Process:
        """Stop this one in the end, too."""
        self.processes.append(process)
        return process

    def coordinator(self, name: str = "coordinator", **env: str) -> Coordinator:
        """Start a coordinator; on an embedded PostgreSQL of its own unless told otherwise."""
        coordinator = Coordinator(self.folder / name, env)
        self.keep(coordinator.process)
        self.coordinators.append(coordinator)
        return coordinator.start()

    def nginx(self, name: str, *sites: str) -> Nginx:
        """Start an nginx that serves an expired placeholder for each of its names."""
        server = Nginx(name, self.folder / name, free_ports(1)[0], list(sites))
        self.keep(server.process)
        server.start()
        return server

    def agent(self, name: str, coordinator: Home, policy: str, **env: str) -> Agent:
        """Start an agent and wait until it is enrolled."""
        agent = self.unstarted_agent(name, coordinator, policy, **env)
        return agent.start()

    def unstarted_agent(self, name: str, coordinator: Home, policy: str, **env: str) -> Agent:
        """Prepare an agent."""
        agent = Agent(name, self.folder / f"agent-{name}", coordinator, policy, env)
        self.keep(agent.process)
        return agent


@contextlib.contextmanager
def playing(folder: Path) -> Iterator[Stage]:
    """Lend a stage; in the end show what its programs said last, which pytest prints when the journey failed."""
    stage = Stage(folder)
    try:
        with stopped_at_the_end(stage.processes):
            yield stage
    finally:
        for coordinator in stage.coordinators:
            coordinator.close()
        for process in stage.processes:
            sys.stdout.write(f"--- {process.name}\n{process.tail(12)}\n")


class Journey:
    """One coordinator's API and what it brought about, seen from outside."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.api: API = coordinator.api()
        self.root_pem = issuing_root(coordinator)

    def target(self, agent: Agent, server: Nginx, site: str, **changes: Any) -> str:
        """Add a target for one of the server's names; return its id."""
        config = {**server.target_config(site), **changes}
        config = {name: value for name, value in config.items() if value is not None}
        body = {"name": site, "type": server.target_type, "agent_id": agent.agent_id, "config": config}
        return str(self.api.post("/api/v1/targets", body)["id"])

    def want(self, common_name: str, *target_ids: str, **more: Any) -> str:
        """Ask for a certificate; return its id."""
        body = {"common_name": common_name, "target_ids": list(target_ids), **more}
        return str(self.api.post("/api/v1/certificates", body)["certificate"]["id"])

    def renew(self, certificate_id: str) -> str:
        """Ask for a renewal; return the run."""
        return str(self.api.post(f"/api/v1/certificates/{certificate_id}/renew")["run_id"])

    def served(self, server: Nginx, site: str, *, instead_of: Seen | None = None, deadline_s: float = SERVED_S) -> Seen:
        """Wait until a client that checks chain, name and dates sees another certificate than before."""
        old = instead_of.fingerprint if instead_of else ""
        seen, _ = wait_for_change(server.port, site, old, root_pem=self.root_pem, deadline_s=deadline_s, pause_s=0.02)
        return seen

    def versions(self, certificate_id: str) -> list[Any]:
        """Return what was issued, newest first."""
        return list(self.api.get(f"/api/v1/certificates/{certificate_id}/versions")["data"])

    def settled(self, certificate_id: str, deadline_s: float = SERVED_S) -> dict[str, Any]:
        """Wait until the coordinator knows that everything wanted is served; return the certificate."""
        path = f"/api/v1/certificates/{certificate_id}"

        def done() -> bool:
            found = self.api.get(path)["status"]
            live = self.api.get("/api/v1/jobs", certificate_id=certificate_id)["data"]
            ended = all(job["state"] in {"Completed", "Failed", "Cancelled"} for job in live)
            return bool(found["service"] == "served" and ended)

        try:
            wait_until(f"{certificate_id} is known to be served", done, deadline_s)
        except TimeoutError as error:
            error.add_note(f"its status: {self.api.get(path)['status']}")
            raise
        certificate: dict[str, Any] = self.api.get(path)
        return certificate


def issuing_root(coordinator: Coordinator) -> str:
    """Return the issuing root in PEM, fetched as relying parties fetch it."""
    der = fetch(f"{coordinator.pki_url}/.well-known/pki/ca/iss-local")
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode()


def fetch(url: str) -> bytes:
    """GET as anybody would, without a credential."""
    return httpx.get(url, timeout=10, trust_env=False).raise_for_status().content


def pem(kind: str, der: bytes) -> str:
    """Wrap DER for OpenSSL's command line."""
    return f"-----BEGIN {kind}-----\n{base64.encodebytes(der).decode()}-----END {kind}-----\n"


def openssl_verify(folder: Path, leaf: bytes, root_pem: str, crl: bytes, name: str) -> subprocess.CompletedProcess[str]:
    """Let the openssl program check a leaf with its CRL."""
    files = {"leaf.pem": pem("CERTIFICATE", leaf), "root.pem": root_pem, "crl.pem": pem("X509 CRL", crl)}
    for file, text in files.items():
        (folder / file).write_text(text)
    argv = ["openssl", "verify", "-x509_strict", "-crl_check", "-purpose", "sslserver", "-verify_hostname", name]
    argv += ["-CAfile", "root.pem", "-CRLfile", "crl.pem", "leaf.pem"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


def still(server: Nginx, site: str, expected: Seen) -> None:
    """See that the same certificate is served as before."""
    seen = look(server.port, site)
    assert seen is not None
    assert seen.fingerprint == expected.fingerprint


def pair_is_consistent(server: Nginx, site: str) -> bool:
    """Say whether the leaf and the key that nginx is configured with belong together."""
    files = server.sites[site]
    leaf = x509.load_pem_x509_certificate(files.cert_path.read_bytes())
    key = serialization.load_pem_private_key(files.key_path.read_bytes(), None)
    return leaf.public_key() == key.public_key()


def recording_nginx(folder: Path, binary: str) -> tuple[Path, Path]:
    """Write a program that notes its words and its environment and becomes nginx; return it and its notes."""
    program, notes = folder / "recording-nginx", folder / "recording-nginx.log"
    notes.touch(mode=0o666)
    program.write_text(
        f"#!/bin/sh\n"
        f'{{ echo call; for word in "$@"; do printf "word %s\\n" "$word"; done; env; }} >> "{notes}"\n'
        f'exec "{binary}" "$@"\n'
    )
    program.chmod(0o755)
    return program, notes
