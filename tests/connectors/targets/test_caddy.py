"""What the Caddy connector describes, and that a real Caddy understands its trial configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import anyio
import anyio.abc
import pytest

from benchmarks.lab.processes import Process, free_ports
from connectors.targets.base import Role, Service
from connectors.targets.caddy import CaddyConfig, CaddyTarget
from core.errors import Misconfigured, Transient
from tests.connectors.targets.trying import MATERIAL, staged_pairs, trial

SERVICE = Service(name="caddy", type="caddy", binary="/usr/bin/caddy", config="/etc/caddy/Caddyfile")


def test_the_certificate_file_holds_the_chain_too() -> None:
    config = CaddyConfig(cert_path="/srv/a.crt", key_path="/srv/a.key")
    contents = {spec.role: spec.content.reveal() for spec in CaddyTarget().files(config, MATERIAL)}
    assert contents == {"certificate": b"LEAF\nCHAIN\n", "key": b"KEY\n"}


@pytest.mark.parametrize(
    "config, adapter",
    [("/srv/my.conf", ("--adapter", "caddyfile")), ("/srv/my.json", ())],
)
def test_a_reload_is_forced_since_the_configuration_is_the_same(config: str, adapter: tuple[str, ...]) -> None:
    commands = CaddyTarget().commands(Service(name="c", type="caddy", binary="/opt/caddy", config=config))
    assert commands.check is not None
    assert commands.reload is not None
    assert commands.check.argv == ("/opt/caddy", "validate", "--config", config, *adapter)
    assert commands.reload.argv == ("/opt/caddy", "reload", "--force", "--config", config, *adapter)


@pytest.mark.parametrize("address", ["localhost:2020", "127.0.0.1:2020", "[::1]:2020", "unix//run/caddy/admin.sock"])
def test_the_admin_address_of_this_host_is_used(address: str) -> None:
    service = Service(name="c", type="caddy", binary="/opt/caddy", config="/srv/Caddyfile", admin=address)
    reload = CaddyTarget().commands(service).reload
    assert reload is not None
    assert reload.argv[-2:] == ("--address", address)


@pytest.mark.parametrize("address", ["web-1:2019", "10.0.0.1:2019", ":2019", "localhost", "http://localhost:2019"])
def test_an_admin_address_elsewhere_is_refused(address: str) -> None:
    service = Service(name="c", type="caddy", binary="/opt/caddy", config="/srv/Caddyfile", admin=address)
    with pytest.raises(Misconfigured, match=r"admin of \[services.c\] .* is not local; name a loopback address"):
        CaddyTarget().commands(service)


def test_an_absent_caddy_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.targets.caddy.BINARIES", ("/nowhere/caddy",))
    with pytest.raises(Misconfigured, match=r"set binary in \[services.caddy\]"):
        CaddyTarget().commands(Service(name="caddy", type="caddy"))


@pytest.mark.anyio
async def test_a_real_caddy_loads_the_trial_and_refuses_a_wrong_key(tmp_path: Path) -> None:
    pairs = staged_pairs(tmp_path)
    right = await trial(CaddyTarget(), SERVICE, [pairs["apart"], pairs["combined"]], tmp_path)
    assert (right.returncode, "Valid configuration" in right.output) == (0, True)
    wrong = await trial(CaddyTarget(), SERVICE, [pairs["apart"], pairs["wrong"]], tmp_path)
    assert wrong.returncode == 1
    assert "private key does not match public key" in wrong.output


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A Caddy whose admin API is at a TCP port, and a file that shows what it keeps for its next start."""
    (port,) = free_ports(1)
    config = tmp_path / "caddy.json"
    config.write_text(f'{{"admin": {{"listen": "127.0.0.1:{port}", "enforce_origin": true}}}}')
    own = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    process = Process("caddy", ["/usr/bin/caddy", "run", "--config", str(config)], tmp_path / "log", own).start()
    process.await_ready(lambda: "admin endpoint started" in process.tail())
    yield Service(name="caddy", type="caddy", admin=f"127.0.0.1:{port}"), tmp_path / "caddy" / "autosave.json"
    process.stop()


def keys(autosave: Path) -> list[str]:
    certificates = json.loads(autosave.read_bytes())["apps"]["tls"]["certificates"]
    return [entry["key"] for entry in certificates["load_pem"]]


@pytest.mark.anyio
async def test_entries_follow_their_files(running: tuple[Service, Path], tmp_path: Path) -> None:
    service, autosave = running
    pairs, renewed = staged_pairs(tmp_path), tmp_path / "renewed"
    renewed.mkdir()
    other = staged_pairs(renewed)
    both = [pairs["apart"], pairs["combined"]]
    for _ in range(2):
        await CaddyTarget().apply(service, both)
        assert keys(autosave) == [path_of(files).read_text() for files in both]
    for role in ("certificate", "key"):
        pairs["apart"][role].write_bytes(other["apart"][role].read_bytes())
    await CaddyTarget().apply(service, both)
    assert keys(autosave) == [path_of(files).read_text() for files in both]
    pairs["apart"]["certificate"].unlink()
    for _ in range(2):
        await CaddyTarget().apply(service, both)
        assert keys(autosave) == [pairs["combined"]["combined"].read_text()]


@pytest.mark.anyio
@pytest.mark.parametrize("broken_off", [1, 3, 4])
async def test_a_request_that_caddy_breaks_off_is_made_again(tmp_path: Path, broken_off: int) -> None:
    """As when Caddy closes the admin API of the configuration before."""
    answers = iter([*("",) * broken_off, *ANSWERS])
    async with (
        await anyio.create_unix_listener(tmp_path / "admin.sock") as listener,
        anyio.create_task_group() as group,
    ):

        async def answer(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                await stream.receive()
                await stream.send(next(answers).encode())

        group.start_soon(listener.serve, answer)
        service = Service(name="caddy", type="caddy", admin=f"unix/{tmp_path}/admin.sock")
        nothing: dict[Role, Path] = {"certificate": tmp_path / "gone.crt", "key": tmp_path / "gone.key"}
        with pytest.raises(Transient, match="does not answer") if broken_off == 4 else nullcontext():
            await CaddyTarget().apply(service, [nothing])
        group.cancel_scope.cancel()
    assert list(answers) == (list(ANSWERS) if broken_off == 4 else [])


ANSWERS = ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",) * 2
"""To the question whether the entry is there, and to its removal."""


def path_of(files: dict[Role, Path]) -> Path:
    return files["combined"] if "combined" in files else files["key"]


@pytest.mark.anyio
async def test_a_pair_that_caddy_refuses_changes_nothing(running: tuple[Service, Path], tmp_path: Path) -> None:
    service, autosave = running
    pairs = staged_pairs(tmp_path)
    await CaddyTarget().apply(service, [pairs["apart"]])
    with pytest.raises(Transient, match=r"refused the new certificate with .* private key does not match") as refused:
        await CaddyTarget().apply(service, [pairs["wrong"]])
    assert "PRIVATE KEY" not in refused.value.detail
    assert keys(autosave) == [pairs["apart"]["key"].read_text()]


@pytest.mark.anyio
@pytest.mark.parametrize("address", ["", "unix/{}/admin.sock"], ids=["port", "socket"])
async def test_a_stopped_caddy_is_explained(tmp_path: Path, address: str) -> None:
    (port,) = free_ports(1)
    admin = address.format(tmp_path) or f"127.0.0.1:{port}"
    with pytest.raises(Transient, match=r"admin API at \S+ does not answer: .*; is Caddy running\?"):
        await CaddyTarget().apply(Service(name="c", type="caddy", admin=admin), [staged_pairs(tmp_path)["apart"]])


def test_a_reload_is_of_no_meaning_to_the_api() -> None:
    with pytest.raises(ValueError, match="reload_action: has no meaning with mode api"):
        CaddyConfig(cert_path="/a", key_path="/b", mode="api", reload_action="reload-caddy")
