"""Deployments that are refused before anything is live: hostile items, wrong keys, hosts that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from agent.deployment.outcome import DeploymentOutcome
from agent.policy import DEFAULT_ALLOWED_PATHS
from connectors.targets import nginx
from connectors.targets.base import FileSpec, Material
from core.secret import Secret
from core.wire import DeploymentItem
from tests.agent.deployment.authority import Authority
from tests.agent.deployment.world import (
    NOBODY,
    World,
    give_away,
    public_folder,
    remove_folder,
    served,
    shows,
)


def refused(outcome: DeploymentOutcome, words: str, *, step: str = "prepared", transient: bool = False) -> None:
    assert outcome.outcome == "failed"
    assert outcome.failure is not None
    assert words in outcome.failure.cause, outcome.failure.cause
    assert (outcome.failure.step, outcome.failure.transient) == (step, transient)
    assert outcome.undo == "not_needed"


@pytest.mark.trio
async def test_a_key_of_another_certificate_is_refused(world: World) -> None:
    issued, other = world.authority.issue(), world.authority.issue()
    outcome = await world.deployer().deploy(issued.item(world.config()), other.secret)
    refused(outcome, "key does not belong to this certificate")
    assert list(world.live.iterdir()) == []


@pytest.mark.trio
@pytest.mark.parametrize(
    "change, words",
    [
        ({"fingerprint": "0" * 64}, "has the fingerprint"),
        ({"spki_sha256": "0" * 64}, "key does not belong"),
        ({"chain": ()}, "holds 0 certificates"),
        ({"chain": (b"not DER",)}, "not a list of DER certificates"),
        ({"target_id": "../../etc"}, "not an id of a target"),
        ({"target_id": "."}, "not an id of a target"),
        ({"target_type": "os"}, "unknown target type"),
        ({"target_type": "base"}, "unknown target type"),
    ],
)
async def test_items_that_contradict_themselves_are_refused(world: World, change: dict[str, Any], words: str) -> None:
    issued = world.authority.issue()
    item: DeploymentItem = msgspec.structs.replace(issued.item(world.config()), **change)
    refused(await world.deployer().deploy(item, issued.secret), words)
    assert list(world.live.iterdir()) == []


@pytest.mark.trio
async def test_a_broken_stored_key_is_not_quoted(world: World) -> None:
    issued = world.authority.issue()
    outcome = await world.deployer().deploy(issued.item(world.config()), Secret(b"-----BEGIN hunter2"))
    refused(outcome, "cannot be read as a PEM private key")
    assert b"hunter2" not in msgspec.json.encode(outcome)


@pytest.mark.trio
@pytest.mark.parametrize(
    "change, words",
    [
        ({"service": "apache"}, "no service 'apache'"),
        ({"reload_action": "reboot"}, "no action 'reboot'"),
        ({"validate_action": "reboot"}, "no action 'reboot'"),
        ({"reload_command": "reboot"}, "config.reload_command: is not a known field"),
        ({"binary": "/tmp/nginx"}, "config.binary: is not a known field"),
        ({"service": "a; reboot"}, "config.service"),
        ({"owner": "nobody-of-that-name"}, "no user 'nobody-of-that-name'"),
        ({"owner": "daemon"}, "gives no files to 'daemon'"),
        ({"group": "daemon"}, 'add "daemon" to allowed_owners'),
        ({"key_mode": "0644"}, "config.key_mode"),
        ({"key_path": None}, "key_path: is required"),
        ({"probe": {"sni": "a..b"}}, "config.probe.sni"),
        ({"probe": {"host": "a\0b"}}, "config.probe.host"),
    ],
)
async def test_a_coordinator_cannot_choose_commands(world: World, change: dict[str, Any], words: str) -> None:
    issued = world.authority.issue()
    config = {key: value for key, value in {**world.config(), **change}.items() if value is not None}
    outcome = await world.deployer().deploy(issued.item(config), issued.secret)
    refused(outcome, words, step="looked" if "nobody-of-that-name" in change.values() else "prepared")


@pytest.mark.trio
async def test_a_type_that_the_host_does_not_allow_is_refused(world: World) -> None:
    world.toml.write_text(f'allowed_target_types = []\nallowed_paths = ["{world.live}"]\n')
    refused(await world.deploy(world.authority.issue()), 'add "nginx" to allowed_target_types')


@pytest.mark.trio
async def test_default_paths_hold_without_the_file(world: World) -> None:
    world.toml.write_text("")
    refused(await world.deploy(world.authority.issue()), "outside the allowed folders")
    assert all(path.startswith("/etc/") for path in DEFAULT_ALLOWED_PATHS)


@pytest.mark.trio
async def test_paths_outside_are_refused(world: World) -> None:
    outside = world.folder / "outside"
    outside.mkdir()
    (world.live / "link").symlink_to(outside)
    for path in (
        str(outside / "a.crt"),
        f"{world.live}/../outside/a.crt",
        f"{world.live}/link/a.crt",
        f"{world.live}-sibling/a.crt",
        f"{world.live}/.certctl/tgt-other/versions/1/a.crt",
        "a.crt",
        f"{world.live}/a\n.crt",
        f"{world.live}/a\0.crt",
        f"{world.live}/$host.crt",
        f'{world.live}/a".crt',
    ):
        outcome = await world.deploy(world.authority.issue(), cert_path=path)
        assert outcome.outcome == "failed", path
        assert outcome.failure is not None
        assert outcome.failure.step == "prepared", (path, outcome.failure)
    assert list(outside.iterdir()) == []
    assert list(world.live.iterdir()) == [world.live / "link"]


@pytest.mark.trio
async def test_one_file_for_two_roles_is_refused(world: World) -> None:
    (world.live / "b").symlink_to(world.live)
    outcome = await world.deploy(world.authority.issue(), key_path=f"{world.live}/b/a.crt")
    refused(outcome, "lead to the same file")


@pytest.mark.trio
@pytest.mark.parametrize("layout", ["current", "separate"])
async def test_a_file_that_is_no_pem_is_never_replaced(world: World, layout: str) -> None:
    world.cert.write_text("user www-data;\n")
    refused(await world.deploy(world.authority.issue(), layout), "holds no PEM", step="looked")
    assert world.cert.read_text() == "user www-data;\n"
    assert list(world.live.iterdir()) == [world.cert]


@pytest.mark.trio
@pytest.mark.parametrize("kind", ["folder", "pipe", "huge"])
async def test_other_things_are_never_replaced(world: World, kind: str) -> None:
    if kind == "folder":
        world.cert.mkdir()
    elif kind == "pipe":
        os.mkfifo(world.cert)
    else:
        with world.cert.open("wb") as file:
            file.truncate(2 << 20)
    refused(await world.deploy(world.authority.issue()), "not a certificate or key file", step="looked")
    assert list(world.live.iterdir()) == [world.cert]


@pytest.mark.trio
async def test_files_that_nginx_cannot_load_are_refused_while_staged(world: World) -> None:
    """The live pair goes on; the cause is told in nginx's own words."""
    old = await world.install()
    new = world.authority.issue()
    deployer = world.deployer()
    original = nginx.NginxTarget.files

    def spoiled(self: nginx.NginxTarget, config: nginx.NginxConfig, material: Material) -> tuple[FileSpec, ...]:
        certificate, key = original(self, config, material)
        return certificate, msgspec.structs.replace(key, content=old.secret)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nginx.NginxTarget, "files", spoiled)
        outcome = await deployer.deploy(new.item(world.config()), new.secret)
    refused(outcome, "key values mismatch", step="validated")
    assert [step.name for step in outcome.steps] == ["staged"]
    assert outcome.served_fingerprint == old.fingerprint == served(world.nginx.port)
    assert world.holds(old)
    assert world.leftovers() == world.journals() == []


@pytest.mark.trio
async def test_an_nginx_without_tls_is_named(world: World) -> None:
    program = world.folder / "plain-nginx"
    program.write_text("#!/bin/sh\necho 'nginx version: nginx/1.22.1' >&2\n")
    program.chmod(0o755)
    world.write_policy(service=f'binary = "{program}"')
    refused(await world.deploy(world.authority.issue()), "without TLS", step="validated")
    assert list(world.live.iterdir()) == []


@pytest.mark.trio
async def test_a_missing_program_is_named(world: World) -> None:
    world.write_policy(service='binary = "/nowhere/nginx"')
    refused(await world.deploy(world.authority.issue()), "/nowhere/nginx", step="validated")


@pytest.mark.trio
async def test_named_actions_are_run_in_place_of_the_built_in(world: World) -> None:
    log = world.folder / "log"
    actions = "".join(
        f'[actions.{name}]\nargv = ["/bin/sh", "-c", "echo {name} >> {log}; exec /usr/sbin/nginx {flag} -c {config}"]\n'
        for name, flag in (("check", "-t"), ("load", "-s reload"))
        for config in (world.nginx.config,)
    )
    world.write_policy(actions, service='reload_action = "load"')
    await world.install(validate_action="check")
    assert log.read_text().split() == ["check", "load"]


@pytest.mark.trio
async def test_an_action_that_hangs_is_ended(world: World) -> None:
    old = await world.install()
    action = '[actions.hang]\nargv = ["/bin/sh", "-c", "sleep 60 & wait"]\ntimeout_s = 0.2\n'
    world.write_policy(action)
    outcome = await world.deploy(world.authority.issue(), reload_action="hang", probe={"timeout_s": 0.3})
    assert outcome.failure is not None
    assert "did not end within 0.2 s" in outcome.failure.cause
    assert outcome.failure.transient
    assert world.holds(old)


@pytest.fixture
def public(authority: Authority) -> Iterator[World]:
    """Give a host that an ordinary user's agent can work on."""
    folder = public_folder()
    world = World(folder, authority, user=NOBODY if os.geteuid() == 0 else None)
    yield world
    world.close()
    world.live.chmod(0o755)
    remove_folder(folder)


def as_user(world: World, item: DeploymentItem, key: bytes) -> DeploymentOutcome:
    """Deploy without root, whoever runs the tests."""
    user = None
    if os.geteuid() == 0:
        user = NOBODY
        for owned in (world.state, world.live, world.nginx.folder):
            give_away(owned, user)
        os.chown(world.toml, user, user)
    done = world.in_process(item, key, user=user)
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=DeploymentOutcome)


@pytest.mark.trio
async def test_an_ordinary_user_can_deploy(public: World) -> None:
    public.nginx.write_config(None, None)
    if os.geteuid() == 0:
        give_away(public.nginx.folder, NOBODY)
    public.nginx.start()
    public.expect_tls()
    issued = public.authority.issue()
    outcome = as_user(public, issued.item(public.config()), issued.key_pem)
    assert outcome.outcome == "served", outcome
    shows(public.nginx.port, issued)


@pytest.mark.trio
async def test_a_folder_that_cannot_be_written_is_named(public: World) -> None:
    public.live.chmod(0o555)
    issued = public.authority.issue()
    outcome = as_user(public, issued.item(public.config()), issued.key_pem)
    refused(outcome, "may not do this", step="staged")
    assert outcome.failure is not None
    assert str(public.live) in outcome.failure.cause
    assert list(public.live.iterdir()) == []


@pytest.mark.trio
async def test_an_owner_that_an_ordinary_user_cannot_give_is_named(public: World) -> None:
    issued = public.authority.issue()
    outcome = as_user(public, issued.item(public.config(owner="root")), issued.key_pem)
    refused(outcome, "may not do this", step="staged")
    assert list(public.live.iterdir()) == []


@pytest.mark.trio
async def test_a_full_disk_is_transient(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    outcome = await world.deploy(world.authority.issue())
    monkeypatch.undo()
    refused(outcome, "disk is full", step="staged", transient=True)
