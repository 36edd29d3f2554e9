"""The program itself, as a process: starts that are refused, a database that goes away, TLS that is loaded anew."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from benchmarks.lab.fleet import Coordinator
from benchmarks.lab.processes import free_ports, stopped_at_the_end, wait_until
from tests.coordinator.world import ENCRYPTION_KEY


def environment(database_url: str, folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a coordinator on ports of its own."""
    https, pki, metrics = free_ports(3)
    return {
        "PATH": os.environ["PATH"],
        "CERTCTL_DATABASE_URL": database_url,
        "CERTCTL_DATA_DIR": str(folder / "data"),
        "CERTCTL_CONFIG_ENCRYPTION_KEY": ENCRYPTION_KEY,
        "CERTCTL_SERVER_PORT": str(https),
        "CERTCTL_PKI_PORT": str(pki),
        "CERTCTL_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        **more,
    }


def run(variables: dict[str, str], command: str = "serve") -> subprocess.CompletedProcess[str]:
    """Run the program until it ends by itself."""
    argv = [sys.executable, "-m", "coordinator.main", command]
    return subprocess.run(argv, env=variables, capture_output=True, text=True, check=False, timeout=60)


def assert_refused(variables: dict[str, str], variable: str) -> str:
    ended = run(variables)
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("certctl-coordinator cannot start: ")
    assert variable in last
    assert "Traceback" not in ended.stderr
    return last


def test_check_says_that_the_settings_work(database_url: str, tmp_path: Path) -> None:
    ended = run(environment(database_url, tmp_path), "check")
    works, weakness = ended.stdout.splitlines()
    assert (ended.returncode, works) == (0, "the settings work and the database is up to date")
    assert weakness.startswith("audit trail: the application's role owns the audit trail")  # one URL, one role


@pytest.mark.parametrize(
    "listener",
    ["CERTCTL_SERVER_HOST/CERTCTL_SERVER_PORT", "CERTCTL_PKI_HOST/CERTCTL_PKI_PORT", "CERTCTL_METRICS_LISTEN"],
)
def test_a_port_that_is_taken_stops_the_start(tmp_path: Path, listener: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        variable = listener.rpartition("/")[2]
        value = f"127.0.0.1:{port}" if variable == "CERTCTL_METRICS_LISTEN" else str(port)
        told = assert_refused(environment("postgresql://localhost/none", tmp_path, **{variable: value}), listener)
    assert f"127.0.0.1:{port}" in told


def test_a_data_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "data")
    assert_refused(environment("postgresql://localhost/none", tmp_path, CERTCTL_DATA_DIR=folder), "CERTCTL_DATA_DIR")


def test_a_database_that_is_not_there_stops_the_start_without_its_password(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    password = "s3cret"
    url = f"postgresql://certctl:{password}@127.0.0.1:{port}/certctl"
    told = assert_refused(environment(url, tmp_path), "CERTCTL_DATABASE_URL")
    assert password not in told


def test_bad_settings_are_told_all_at_once(tmp_path: Path) -> None:
    bad = environment("postgresql://localhost/none", tmp_path, CERTCTL_SERVER_PORT="x", CERTCTL_AUTH_TYPE="none")
    assert "CERTCTL_AUTH_TYPE" in assert_refused(bad, "CERTCTL_SERVER_PORT")


@pytest.mark.parametrize("damage", ["missing", "another key", "encrypted key", "not PEM"])
def test_a_pair_for_https_that_cannot_be_used_stops_the_start(database_url: str, tmp_path: Path, damage: str) -> None:
    pair = Pair(tmp_path, trustme.CA())
    match damage:
        case "missing":
            pair.key.unlink()
        case "another key":
            pair.key.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
        case "encrypted key":
            key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
            form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
            pair.key.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
        case _:
            pair.certificate.write_text("no PEM")
    assert_refused(environment(database_url, tmp_path, **pair.variables), "CERTCTL_SERVER_TLS_CERT_PATH")


class Pair:
    """An operator's own certificate for HTTPS, in files."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self.authority = authority
        self.renew()

    def renew(self) -> int:
        """Write a new pair; return its serial number."""
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number

    @property
    def variables(self) -> dict[str, str]:
        return {
            "CERTCTL_SERVER_TLS_CERT_PATH": str(self.certificate),
            "CERTCTL_SERVER_TLS_KEY_PATH": str(self.key),
        }


def shown(coordinator: Coordinator, context: ssl.SSLContext, name: str = "localhost") -> int:
    """Shake hands with a coordinator; return its certificate's serial number."""
    port = int(coordinator.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        assert tls.version() == "TLSv1.3"
        return int(str((tls.getpeercert() or {})["serialNumber"]), 16)


@pytest.fixture
def own(database_url: str, tmp_path: Path) -> Iterator[Coordinator]:
    """A running coordinator with an authority of its own."""
    variables = {"CERTCTL_DATABASE_URL": database_url, "CERTCTL_CONFIG_ENCRYPTION_KEY": ENCRYPTION_KEY}
    coordinator = Coordinator(tmp_path, variables)
    with stopped_at_the_end([coordinator.process]):
        yield coordinator.start()


def test_it_has_an_authority_of_its_own_that_outlives_it(own: Coordinator) -> None:
    root = own.ca_path.read_bytes()
    context = ssl.create_default_context(cafile=own.ca_path)
    before = shown(own, context)
    for name in ("127.0.0.1", "localhost", socket.gethostname()):
        shown(own, context, name)
    served = httpx.get(f"{own.url}/api/v1/server-root", verify=context, trust_env=False)
    assert served.content == root
    assert own.process.stop() == 0
    own.start()
    assert own.ca_path.read_bytes() == root
    assert shown(own, context) != before, "each process makes itself a leaf"


def test_its_listeners_answer_what_is_theirs_and_a_stop_is_clean(own: Coordinator) -> None:
    context = ssl.create_default_context(cafile=own.ca_path)
    with httpx.Client(verify=context, trust_env=False) as http:
        assert http.get(f"{own.url}/health").json() == {"status": "healthy", "warnings": []}
        assert http.head(f"{own.url}/health").content == b""
        assert http.get(f"{own.pki_url}/.well-known/pki/crl/iss-local").is_success
        assert http.get(f"{own.pki_url}/health").status_code == 404
        metrics = http.get(own.metrics_url)
        assert 'certctl_http_requests_total{method="GET",route="/health"' in metrics.text
        key = (own.data_dir / "admin.key").read_text().strip()
        assert http.get(f"{own.url}/api/v1/auth/check", headers={"Authorization": f"Bearer {key}"}).is_success
        big = http.post(f"{own.url}/api/v1/agents", content=bytes(2 * 1024 * 1024))
        assert big.status_code == 413
    assert own.process.stop() == 0
    assert key not in own.process.log.read_text()


def test_a_new_pair_is_taken_at_sighup_and_a_bad_one_leaves_the_old(database_url: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = Pair(tmp_path, authority)
    variables = {
        "CERTCTL_DATABASE_URL": database_url,
        "CERTCTL_CONFIG_ENCRYPTION_KEY": ENCRYPTION_KEY,
        **pair.variables,
    }
    coordinator = Coordinator(tmp_path / "coordinator", variables)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    first = pair.renew()
    with stopped_at_the_end([coordinator.process]):
        coordinator.process.start()
        coordinator.process.await_ready(lambda: "serving" in coordinator.process.tail())
        assert shown(coordinator, context) == first
        assert not coordinator.ca_path.exists()
        answer = httpx.get(f"{coordinator.url}/api/v1/server-root", verify=context, trust_env=False)
        assert answer.status_code == 404

        second = pair.renew()
        assert shown(coordinator, context) == first, "not before it is told to"
        coordinator.process.signal(signal.SIGHUP)
        wait_until("the new pair", lambda: shown(coordinator, context) == second)

        pair.renew()
        pair.key.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
        coordinator.process.signal(signal.SIGHUP)
        wait_until("the refusal", lambda: "server_certificate_not_loaded" in coordinator.process.tail())
        assert shown(coordinator, context) == second
        assert coordinator.process.running()
