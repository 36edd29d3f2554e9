"""The ssh target on a real OpenSSH server with a real nginx behind it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import paramiko
import pytest
import trio

from agent.deployment.material import read_material
from agent.deployment.outcome import DeploymentOutcome
from agent.policy import load_policy
from connectors.targets import registry
from connectors.targets.base import Delivery
from connectors.targets.ssh import SSHTarget
from core.errors import InvalidInput
from tests.agent.deployment.authority import Authority, Issued
from tests.agent.deployment.world import NGINX, World, shows
from tests.peers.sshd import SSHServer

pytestmark = pytest.mark.trio


class Far:
    """A host that is reached by SSH, and the agent that may."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.world = World(folder, self.authority)
        self.sshd = SSHServer(folder / "sshd")
        self.sshd.start()
        self.shut = folder / "shut"
        self.policy()

    def policy(self, **facts: str) -> None:
        nginx = self.world.nginx
        argv = [NGINX, "-e", str(nginx.folder / "error.log"), "-c", str(nginx.config)]
        reload = [
            "/bin/sh",
            "-c",
            f'test ! -e "{self.shut}" || {{ echo the gate is shut >&2; exit 3; }}; exec "$@"',
            "sh",
        ]
        usual = {
            "validate_command": json.dumps([*argv, "-t", "-q"]),
            "reload_command": json.dumps([*reload, *argv, "-s", "reload"]),
        }
        lines = self.sshd.facts(self.world.live, **{**usual, **facts})
        self.world.toml.write_text(f'[services.far]\ntype = "ssh"\n[services.far.ssh]\n{lines}')

    def config(self, **more: Any) -> dict[str, Any]:
        probe = {"port": self.world.nginx.port, "timeout_s": 5}
        paths = {"cert_path": str(self.world.cert), "key_path": str(self.world.key)}
        return {"service": "far", "host": "127.0.0.1", "port": self.sshd.port, **paths, "probe": probe, **more}

    async def deploy(self, issued: Issued, **more: Any) -> DeploymentOutcome:
        return await self.world.deployer().deploy(issued.item(self.config(**more), target_type="ssh"), issued.secret)

    async def install(self, **more: Any) -> Issued:
        """Bring the first certificate."""
        nginx = self.world.nginx
        nginx.write_config(None, None)
        nginx.start()
        self.world.expect_tls("separate")
        issued = self.authority.issue()
        outcome = await self.deploy(issued, **more)
        assert outcome.outcome == "served", outcome
        assert [step.name for step in outcome.steps] == ["staged", "published", "checked", "reloaded", "served"]
        return issued

    def is_as(self, issued: Issued) -> None:
        """See a certificate served, in the files, and nothing left behind."""
        shows(self.world.nginx.port, issued)
        assert self.world.holds(issued)
        assert self.left() == []

    def left(self) -> list[Path]:
        return [*self.world.live.glob(".*"), *(self.world.state / "journal-remote").glob("*")]

    def close(self) -> None:
        self.world.close()
        self.sshd.process.stop()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    far = Far(tmp_path)
    yield far
    far.close()


def cause(outcome: DeploymentOutcome) -> str:
    assert outcome.failure is not None, outcome
    return outcome.failure.cause


async def test_a_first_certificate_and_its_renewal_are_served(far: Far) -> None:
    issued = await far.install()
    far.is_as(issued)
    assert stat.S_IMODE(far.world.key.stat().st_mode) == 0o600
    assert (await far.deploy(issued)).outcome == "unchanged"
    far.world.key.chmod(0o640)
    renewed = far.authority.issue()
    assert (await far.deploy(renewed, key_mode="0400")).outcome == "served"
    far.is_as(renewed)
    assert stat.S_IMODE(far.world.key.stat().st_mode) == 0o400


async def test_a_reload_that_fails_is_undone_and_its_output_is_told(far: Far) -> None:
    issued = await far.install()
    far.shut.touch()
    outcome = await far.deploy(far.authority.issue())
    assert "the reload failed" in cause(outcome)
    assert "ended with 3: the gate is shut" in cause(outcome)
    assert outcome.failure is not None
    assert (outcome.failure.step, outcome.undo) == ("reloaded", "done")
    far.is_as(issued)


async def test_a_mode_that_was_changed_comes_back(far: Far) -> None:
    issued = await far.install()
    far.shut.touch()
    assert (await far.deploy(issued, cert_mode="0600", probe={"port": 1, "timeout_s": 0.2})).undo == "done"
    assert stat.S_IMODE(far.world.cert.stat().st_mode) == 0o644
    far.is_as(issued)


async def test_a_broken_configuration_is_named_and_nothing_is_reloaded(far: Far) -> None:
    issued = await far.install()
    far.world.expect_tls("separate", extra="colour red;")
    outcome = await far.deploy(far.authority.issue())
    assert 'unknown directive "colour"' in cause(outcome)
    assert outcome.failure is not None
    assert (outcome.failure.step, outcome.undo) == ("checked", "done")
    far.is_as(issued)


async def test_a_first_certificate_that_fails_leaves_nothing(far: Far) -> None:
    far.world.nginx.write_config(None, None)
    far.world.nginx.start()
    outcome = await far.deploy(far.authority.issue(), probe={"port": far.world.nginx.port, "timeout_s": 0.3})
    assert outcome.outcome == "failed"
    assert list(far.world.live.iterdir()) == []


@pytest.mark.parametrize("facts", [{}, {"known_hosts": "", "host_keys": "FINGERPRINT"}, {"first_use": "true"}])
async def test_another_host_key_is_refused(far: Far, facts: dict[str, str]) -> None:
    if "first_use" in facts:
        far.sshd.known_hosts.unlink()
    far.policy(**{name: value.replace("FINGERPRINT", f'["{far.sshd.fingerprint()}"]') for name, value in facts.items()})
    issued = await far.install()
    far.sshd.new_host_key()
    far.sshd.restart()
    outcome = await far.deploy(far.authority.issue())
    assert f"shows the host key {far.sshd.fingerprint()}, which is not the one of" in cause(outcome)
    far.is_as(issued)


async def test_a_host_key_that_nobody_told_is_refused(far: Far) -> None:
    far.sshd.known_hosts.write_text("")
    outcome = await far.deploy(far.authority.issue())
    assert f"its host key {far.sshd.fingerprint()} is not known; compare it" in cause(outcome)


async def test_a_key_is_private_from_its_first_moment(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    chmod = paramiko.SFTPClient.chmod

    def looked(self: paramiko.SFTPClient, path: bytes | str, mode: int) -> None:
        seen.append(stat.S_IMODE(Path(str(path)).stat().st_mode))
        chmod(self, path, mode)

    monkeypatch.setattr(paramiko.SFTPClient, "chmod", looked)
    await far.install()
    assert seen == [0o600, 0o600]


async def test_the_other_event_loop(far: Far) -> None:
    config: Any = registry.decode_config("ssh", far.config())
    service = load_policy(far.world.toml).service("ssh", "far")
    issued = far.authority.issue()
    delivery = Delivery("mc-a", read_material(issued.item({}), issued.secret))

    async def deliver() -> None:
        async with SSHTarget().reach(service, config) as place:
            await place.look(delivery)
            await place.stage()
            await place.publish()

    await trio.to_thread.run_sync(lambda: anyio.run(deliver, backend="asyncio"))
    assert far.world.holds(issued)


async def test_a_wrong_password_is_refused_and_not_told(far: Far) -> None:
    outcome = await far.deploy(far.authority.issue(), password="not-the-password")
    assert "the login was refused" in cause(outcome)
    assert "not-the-password" not in str(outcome)


async def test_a_key_with_a_passphrase(far: Far) -> None:
    login = {"private_key": far.sshd.secret_key.read_text(), "passphrase": far.sshd.passphrase}
    far.is_as(await far.install(**login))
    wrong = await far.deploy(far.authority.issue(), **{**login, "passphrase": "wrong"})
    assert "the passphrase is wrong" in cause(wrong)
    missing = await far.deploy(far.authority.issue(), private_key=login["private_key"])
    assert "set config.passphrase" in cause(missing)


async def test_without_sftp_a_shell_does_it(far: Far) -> None:
    far.sshd.configure(sftp=False)
    far.sshd.restart()
    issued = await far.install()
    far.is_as(issued)
    assert stat.S_IMODE(far.world.key.stat().st_mode) == 0o600
    far.shut.touch()
    assert "the gate is shut" in cause(await far.deploy(far.authority.issue()))
    far.is_as(issued)


@pytest.mark.parametrize("point", ["deploy.journaled", "deploy.published", "deploy.checked", "deploy.reloaded"])
async def test_what_a_kill_left_is_undone_at_the_next_start(far: Far, point: str) -> None:
    issued = await far.install()
    renewed = far.authority.issue()
    item = renewed.item(far.config(), target_type="ssh")
    assert far.world.in_process(item, renewed.key_pem, crash=point).returncode == -signal.SIGKILL
    (journal,) = (far.world.state / "journal-remote").iterdir()
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    repaired = far.world.in_process(None)
    assert msgspec.json.decode(repaired.stdout) == [
        "tgt-web: an interrupted deployment was undone, the previous state is back"
    ], repaired.stderr
    far.is_as(issued)


async def test_what_an_operator_wrote_after_a_kill_stays(far: Far) -> None:
    await far.install()
    renewed, theirs = far.authority.issue(), far.authority.issue()
    far.world.in_process(renewed.item(far.config(), target_type="ssh"), renewed.key_pem, crash="deploy.published")
    far.world.cert.write_bytes(theirs.cert_pem)
    far.world.key.write_bytes(theirs.key_pem)
    assert b"was changed meanwhile, and stays so" in far.world.in_process(None).stdout
    far.is_as(theirs)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another host": ({"host": "localhost"}, "config.host: this agent may not log in at localhost:"),
    "another folder": ({"key_path": "/root/.ssh/authorized_keys"}, "config.key_path: .* is outside allowed_paths"),
    "another owner": ({"owner": "daemon"}, "config.owner: no files are given to 'daemon'"),
    "another service": ({"service": "near"}, "this host has no service 'near'"),
}


@pytest.mark.parametrize("change, said", REFUSED.values(), ids=REFUSED)
async def test_what_agent_toml_does_not_allow_is_refused(far: Far, change: dict[str, Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(cause(await far.deploy(far.authority.issue(), **change)))


async def test_a_link_out_of_the_allowed_folders_is_refused(far: Far) -> None:
    (far.world.folder / "elsewhere").mkdir()
    (far.world.live / "out").symlink_to(far.world.folder / "elsewhere")
    outcome = await far.deploy(far.authority.issue(), cert_path=str(far.world.live / "out" / "a.crt"))
    assert "outside its allowed_paths" in cause(outcome)


@pytest.mark.parametrize("sftp", [True, False])
async def test_what_is_no_certificate_stays(far: Far, *, sftp: bool) -> None:
    far.sshd.configure(sftp=sftp)
    far.sshd.restart()
    far.world.cert.write_text("notes")
    assert "holds no PEM certificate or key" in cause(await far.deploy(far.authority.issue()))
    far.world.cert.unlink()
    far.world.cert.symlink_to(far.world.folder / "a.crt")
    assert "is a link or no file" in cause(await far.deploy(far.authority.issue()))


@pytest.mark.parametrize("kex", ["mlkem768x25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256"])
async def test_modern_key_exchanges(far: Far, kex: str) -> None:
    far.sshd.configure(extra=f"KexAlgorithms {kex}\n")
    if far.sshd.knows(kex):
        far.sshd.restart()
        await far.install()


async def test_an_outdated_server_is_named(far: Far) -> None:
    far.sshd.configure(extra="MACs hmac-sha1\nCiphers aes128-ctr\n")
    far.sshd.restart()
    assert "outdated algorithms are not used" in cause(await far.deploy(far.authority.issue()))


async def test_a_host_that_says_nothing_is_given_up(far: Far) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        far.policy(hosts=f'["127.0.0.1:{port}"]')
        outcome = await far.deploy(far.authority.issue(), port=port, timeout_s=1)
    assert f"@127.0.0.1:{port}: " in cause(outcome)


async def test_a_command_that_hangs_is_given_up_and_undone(far: Far) -> None:
    issued = await far.install()
    far.policy(reload_command='["/bin/sleep", "60"]')
    outcome = await far.deploy(far.authority.issue(), timeout_s=1)
    assert "`/bin/sleep 60` on " in cause(outcome)
    assert "no answer within 1 s" in cause(outcome)
    assert outcome.undo == "done"
    far.is_as(issued)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may use sudo without a rule")
async def test_with_sudo_files_get_an_owner(far: Far) -> None:
    far.policy(sudo="true", allowed_owners='["daemon"]')
    await far.install(group="daemon", key_mode="0640")
    assert (far.world.key.stat().st_gid, stat.S_IMODE(far.world.key.stat().st_mode)) == (1, 0o640)


@pytest.mark.parametrize("sudo, said", [("no-sudo-here", "no-sudo-here"), ("false", "the shell ended with 1")])
async def test_what_keeps_sudo_from_working_is_told(
    far: Far, sudo: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.ssh._SUDO", (sudo, "-n"))
    far.policy(sudo="true")
    outcome = await far.deploy(far.authority.issue())
    assert outcome.failure is not None
    assert outcome.failure.step == "looked"
    assert said in outcome.failure.cause
    assert "there is no folder" not in outcome.failure.cause


async def test_a_probe_without_a_host_looks_at_the_targets_own() -> None:
    config = {"service": "far", "host": "web-7.example.test", "cert_path": "/a/c", "key_path": "/a/k"}
    decoded: Any = registry.decode_config("ssh", {**config, "probe": {"port": 8443}})
    assert (decoded.probe.host, decoded.probe.port) == ("web-7.example.test", 8443)
    assert decoded.probe == registry.decode_config("ssh", {**config, "probe": {"port": 8443}}).probe
    with pytest.raises(InvalidInput, match="key_path"):
        registry.decode_config("ssh", {**config, "key_path": None})
