"""What the Caddy connector describes, and that a real Caddy understands its trial configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.targets.base import Service
from connectors.targets.caddy import CaddyConfig, CaddyTarget
from core.errors import Misconfigured
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
