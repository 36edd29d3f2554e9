"""What the HAProxy connector describes, its trial, and the stats socket of a real HAProxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end
from benchmarks.lab.wire import look
from connectors.targets.base import Role, Service
from connectors.targets.haproxy import HAProxyConfig, HAProxyTarget
from core.errors import Misconfigured, Transient
from tests.connectors.targets.trying import staged_pairs, trial

BINARY = "/usr/sbin/haproxy"


class Running:
    """A real HAProxy on a folder of certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        (self.port,) = free_ports(1)
        self.certificates = folder / "certs"
        self.certificates.mkdir()
        self.socket = folder / "admin.sock"
        self.first = self.write("a.test")
        config = folder / "haproxy.cfg"
        config.write_text(
            f"global\n  stats socket {self.socket} level admin\ndefaults\n  mode tcp\n  timeout client 5s\n"
            f"frontend f\n  bind 127.0.0.1:{self.port} ssl crt {self.certificates}/\n"
        )
        self.process = Process("haproxy", [BINARY, "-db", "-f", str(config)], folder / "haproxy.log")
        self.service = Service(name="edge", type="haproxy", admin=str(self.socket))

    def write(self, name: str) -> Path:
        """Write a new pair for a name."""
        path = self.certificates / f"{name}.pem"
        path.write_bytes(self.authority.issue_cert(name).private_key_and_cert_chain_pem.bytes())
        return path

    def shows(self, name: str) -> str:
        """Return what is served for a name."""
        seen = look(self.port, name)
        assert seen is not None
        return seen.fingerprint


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """One that runs."""
    haproxy = Running(tmp_path)
    with stopped_at_the_end([haproxy.process]):
        haproxy.process.start()
        haproxy.process.await_ready(lambda: look(haproxy.port, "a.test") is not None)
        yield haproxy


def test_commands_name_this_service_alone() -> None:
    commands = HAProxyTarget().commands(Service(name="e", type="haproxy", binary="/opt/haproxy", config="/opt/h.cfg"))
    assert commands.check is not None
    assert commands.reload is not None
    assert commands.check.argv == ("/opt/haproxy", "-c", "-f", "/opt/h.cfg")
    assert commands.reload.argv == ("/usr/bin/pkill", "-USR2", "-F", "/run/haproxy.pid")


@pytest.mark.parametrize(
    "config, problem",
    [
        ({"layout": "current", "key_path": "/srv/k.pem"}, "layout: must be combined"),
        ({"cert_path": "/srv/a b.pem"}, "cert_path: holds ' '"),
        ({"mode": "runtime", "reload_action": "r"}, "reload_action: has no meaning with mode runtime"),
    ],
)
def test_wrong_configurations_name_the_field(config: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}"):
        HAProxyConfig(**{"cert_path": "/srv/a.pem", **config})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.anyio
async def test_a_real_haproxy_loads_the_trial_and_refuses_a_wrong_key(tmp_path: Path) -> None:
    pairs = staged_pairs(tmp_path)
    right: dict[Role, Path] = pairs["combined"]
    wrong: dict[Role, Path] = {"combined": tmp_path / "mixed.pem"}
    wrong["combined"].write_bytes(b"".join(path.read_bytes() for path in pairs["wrong"].values()))
    service = Service(name="e", type="haproxy", binary=BINARY)
    assert (await trial(HAProxyTarget(), service, [right, right], tmp_path)).returncode == 0
    refused = await trial(HAProxyTarget(), service, [right, wrong], tmp_path)
    assert refused.returncode == 1
    assert "inconsistencies between private key and certificate" in refused.output


@pytest.mark.anyio
async def test_the_running_process_takes_a_new_pair(running: Running) -> None:
    before = running.shows("a.test")
    running.write("a.test")
    await HAProxyTarget().apply(running.service, [{"combined": running.first}])
    assert running.shows("a.test") != before


@pytest.mark.anyio
async def test_a_file_in_a_known_folder_is_added_and_forgotten(running: Running) -> None:
    before = running.shows("b.test")
    path = running.write("b.test")
    await HAProxyTarget().apply(running.service, [{"combined": path}, {"combined": running.first}])
    assert running.shows("b.test") != before
    path.unlink()
    await HAProxyTarget().apply(running.service, [{"combined": path}])
    assert running.shows("b.test") == running.shows("a.test")


@pytest.mark.anyio
async def test_what_it_refuses_changes_nothing(running: Running, tmp_path: Path) -> None:
    before = running.shows("a.test")
    running.first.write_bytes(running.authority.issue_cert("a.test").private_key_pem.bytes())
    with pytest.raises(Transient, match=r"HAProxy did not accept the new certificate for .*unable to load") as told:
        await HAProxyTarget().apply(running.service, [{"combined": running.first}])
    assert "BEGIN" not in str(told.value)
    assert running.shows("a.test") == before
    elsewhere = tmp_path / "elsewhere.pem"
    elsewhere.write_bytes(running.authority.issue_cert("c.test").private_key_and_cert_chain_pem.bytes())
    with pytest.raises(Transient, match=r"the running HAProxy does not use .*elsewhere.pem; name it, or its folder"):
        await HAProxyTarget().apply(running.service, [{"combined": elsewhere}])


@pytest.mark.anyio
async def test_a_socket_where_nobody_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    path.write_text("")
    service = Service(name="edge", type="haproxy", admin=str(tmp_path / "none.sock"))
    with pytest.raises(Transient, match=r"none.sock does not answer: .*; is HAProxy running?"):
        await HAProxyTarget().apply(service, [{"combined": path}])
    with pytest.raises(Misconfigured, match=r"admin of \[services.edge\] in agent.toml is no path"):
        await HAProxyTarget().apply(Service(name="edge", type="haproxy", admin="127.0.0.1:9999"), [{"combined": path}])
