"""What the nginx connector describes, and that a real nginx understands its trial configuration."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from connectors.targets.base import Command, CommandResult, FileSpec, Material, Role, Service, default_sni
from connectors.targets.nginx import NginxConfig, NginxTarget
from core.errors import Misconfigured, Transient
from core.names import parse_name
from core.secret import Secret

MATERIAL = Material(b"LEAF\n", b"CHAIN\n", Secret(b"KEY\n"), "f" * 64)
SERVICE = Service(name="nginx", type="nginx", binary="/usr/sbin/nginx", config="/etc/nginx/nginx.conf")


class Runner:
    """Runs commands for both event loops and remembers them; ``canned`` stands in for what a program would print."""

    def __init__(self, canned: str | None = None, returncode: int = 0) -> None:
        self.seen: list[tuple[str, ...]] = []
        self._canned = canned
        self._returncode = returncode

    async def run(self, command: Command) -> CommandResult:
        self.seen.append(command.argv)
        if self._canned is not None:
            return CommandResult(self._returncode, self._canned)
        done = await anyio.run_process(command.argv, check=False, stderr=subprocess.STDOUT)
        return CommandResult(done.returncode, done.stdout.decode())


def files(**config: Any) -> dict[Role, FileSpec]:
    paths = {"cert_path": "/srv/a.crt", **({} if config.get("layout") == "combined" else {"key_path": "/srv/a.key"})}
    return {spec.role: spec for spec in NginxTarget().files(NginxConfig(**{**paths, **config}), MATERIAL)}


def test_the_certificate_file_holds_the_chain_too() -> None:
    described = files(chain_path="/srv/a.chain")
    contents = {role: spec.content.reveal() for role, spec in described.items()}
    assert contents == {"certificate": b"LEAF\nCHAIN\n", "key": b"KEY\n", "chain": b"CHAIN\n"}
    assert {role: spec.default_mode for role, spec in described.items()} == {
        "certificate": 0o644,
        "key": 0o600,
        "chain": 0o644,
    }
    assert list(described) == ["certificate", "key", "chain"]


def test_the_combined_file_is_private() -> None:
    (described,) = files(layout="combined").values()
    assert described.content.reveal() == b"KEY\nLEAF\nCHAIN\n"
    assert (described.role, described.path, described.default_mode) == ("combined", "/srv/a.crt", 0o600)


def test_configured_modes_and_owners_are_passed_on() -> None:
    described = files(cert_mode="0640", key_mode="0440", owner="www-data", group="ssl-cert")
    assert (described["certificate"].mode, described["key"].mode) == (0o640, 0o440)
    assert {(spec.owner, spec.group) for spec in described.values()} == {("www-data", "ssl-cert")}


def test_keys_do_not_show() -> None:
    assert "KEY" not in repr(files()) + repr(MATERIAL)


def test_commands_name_this_service_alone() -> None:
    service = Service(name="e", type="nginx", binary="/opt/nginx", config="/opt/e.conf", prefix="/opt/p")
    commands = NginxTarget().commands(service)
    where = ("-c", "/opt/e.conf", "-p", "/opt/p")
    assert commands.check is not None
    assert commands.check.argv == ("/opt/nginx", "-t", "-q", *where)
    assert commands.reload is not None
    assert commands.reload.argv == ("/opt/nginx", "-s", "reload", *where)


def test_an_absent_nginx_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.targets.nginx.BINARIES", ("/nowhere/nginx",))
    with pytest.raises(Misconfigured, match=r"set binary in \[services.nginx\]"):
        NginxTarget().commands(Service(name="nginx", type="nginx"))


def test_the_default_server_name_is_a_host_name() -> None:
    assert default_sni([parse_name("10.0.0.1"), parse_name("b.test"), parse_name("a.test")]) == "b.test"
    assert default_sni([parse_name("*.b.test")]) == "certctl-probe.b.test"
    assert default_sni([parse_name("10.0.0.1")]) == ""


@pytest.mark.anyio
@pytest.mark.parametrize("combined", [False, True])
async def test_a_real_nginx_loads_the_trial_and_refuses_a_wrong_key(tmp_path: Path, combined: bool) -> None:
    authority = trustme.CA()
    leaf, other = authority.issue_cert("a.test"), authority.issue_cert("a.test")
    certificate, key, wrong = tmp_path / "c c.pem", tmp_path / "k.pem", tmp_path / "w.pem"
    certificate.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    key.write_bytes(leaf.private_key_pem.bytes())
    wrong.write_bytes(other.private_key_pem.bytes())
    right: dict[Role, Path] = {"combined": certificate} if combined else {"certificate": certificate, "key": key}
    assert (await trial(right, tmp_path)).returncode == 0
    refused = await trial({"certificate": certificate, "key": wrong}, tmp_path)
    assert refused.returncode == 1
    assert "key values mismatch" in refused.output


async def trial(staged: dict[Role, Path], scratch: Path) -> CommandResult:
    runner = Runner()
    check = await NginxTarget().staged_check(SERVICE, [staged], scratch, runner)
    for name, text in check.files.items():
        (scratch / name).write_text(text)
    assert check.command is not None
    return await runner.run(check.command)


@pytest.mark.anyio
async def test_absent_modules_are_left_out(tmp_path: Path) -> None:
    built = "nginx version: nginx/1.18.0\nconfigure arguments: --with-http_ssl_module --without-http_scgi_module"
    check = await NginxTarget().staged_check(SERVICE, [{"combined": tmp_path / "a"}], tmp_path, Runner(built))
    text = check.files["nginx.conf"]
    assert "proxy_temp_path" in text
    assert "scgi_temp_path" not in text
    assert check.command is not None
    assert "-e" not in check.command.argv


@pytest.mark.anyio
async def test_an_nginx_without_tls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="without TLS"):
        await NginxTarget().staged_check(
            SERVICE, [{"combined": tmp_path / "a"}], tmp_path, Runner("nginx version: nginx/1.22.1")
        )


@pytest.mark.anyio
async def test_an_nginx_that_does_not_run_is_quoted(tmp_path: Path) -> None:
    """What it says is not taken for a description of how it was built; the next look asks again."""
    target, broken = NginxTarget(), Runner("nginx: error while loading shared libraries: libssl.so.3", 127)
    with pytest.raises(Transient, match=r"`/usr/sbin/nginx -V` ended with 127: nginx: error while loading"):
        await target.staged_check(SERVICE, [{"combined": tmp_path / "a"}], tmp_path, broken)
    await target.staged_check(SERVICE, [{"combined": tmp_path / "a"}], tmp_path, Runner())


@pytest.mark.anyio
async def test_the_build_is_asked_for_once(tmp_path: Path) -> None:
    runner, target = Runner(), NginxTarget()
    for _ in range(2):
        await target.staged_check(SERVICE, [{"combined": tmp_path / "a"}], tmp_path, runner)
    assert runner.seen == [("/usr/sbin/nginx", "-V")]
