"""What the haproxy connector describes, and that a real HAProxy is renewed over its socket and by reloads."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from agent.deployment.commands import HostRunner
from agent.deployment.outcome import DeploymentOutcome
from benchmarks.lab.servers import Site, write_placeholder
from benchmarks.lab.wire import look
from connectors.targets import haproxy, haproxy_runtime, registry
from connectors.targets.base import Command, CommandResult, Role, Service
from connectors.targets.haproxy import HAProxyConfig, HAProxyTarget
from connectors.targets.haproxy_runtime import HAProxyRuntime
from core.errors import InvalidInput, Misconfigured, Transient
from core.secret import Secret
from tests.agent.deployment.authority import Issued
from tests.agent.deployment.world import until
from tests.connectors.targets.host import Host, hosting
from tests.journeys.targets.subjects.haproxy import HAProxy, RuntimeHAProxy
from tests.journeys.targets.visitors import visiting

SERVICE = Service(name="haproxy", type="haproxy", binary="/usr/sbin/haproxy", config="/etc/haproxy/haproxy.cfg")


class Folder(RuntimeHAProxy):
    """An HAProxy that loads every PEM file of a folder."""

    names = ("a.test", "b.test", "c.test", "d.test")

    def _write(self, _site: object) -> None:
        super()._write(self.site)
        self.certs = self.folder / "certs"
        if not self.certs.exists():
            self.certs.mkdir()
            for name in self.names[:2]:
                site = Site(name, self.folder / name)
                site.folder.mkdir()
                write_placeholder(site)
                (self.certs / f"{name}.pem").write_bytes(site.key_path.read_bytes() + site.cert_path.read_bytes())
        both = f"{self.site.cert_path} crt {self.certs}"
        self.conf.write_text(self.conf.read_text().replace(str(self.site.cert_path), both))

    def seen_as(self, name: str) -> str:
        seen = look(self.port(), name)
        return "" if seen is None else seen.fingerprint


class Counting(HostRunner):
    """Notes which programs are run."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def run(self, command: Command) -> CommandResult:
        self.seen.append("trial" if "/scratch/" in " ".join(command.argv) else Path(command.argv[0]).name)
        return await super().run(command)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with hosting(RuntimeHAProxy, tmp_path) as host:
        yield host


@pytest.fixture
def reloaded(tmp_path: Path) -> Iterator[Host]:
    with hosting(HAProxy, tmp_path) as host:
        yield host


def test_commands_name_this_service_alone() -> None:
    service = Service(
        name="e", type="haproxy", binary="/opt/haproxy", config="/opt/e.cfg", prefix="/opt/p", pid_file="/opt/pid"
    )
    commands = HAProxyTarget().commands(service)
    assert commands.check == Command(("/opt/haproxy", "-c", "-f", "/opt/e.cfg", "-C", "/opt/p"))
    assert commands.reload == Command(("/usr/bin/pkill", "-USR2", "-F", "/opt/pid", "haproxy"))


def test_an_absent_haproxy_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "CONFIGS", ("/nowhere/haproxy.cfg",))
    with pytest.raises(Misconfigured, match=r"set config in \[services.haproxy\]"):
        HAProxyTarget().commands(Service(name="haproxy", type="haproxy"))


def test_one_combined_file_is_the_default() -> None:
    config = registry.decode_config("haproxy", {"cert_path": "/srv/a.pem"})
    assert isinstance(config, HAProxyConfig)
    assert config.layout == "combined"


@pytest.mark.parametrize("key", ["/srv/a.pem.key", "/srv/a.key"])
def test_the_key_may_lie_beside(key: str) -> None:
    registry.decode_config("haproxy", {"cert_path": "/srv/a.pem", "key_path": key, "layout": "separate"})


@pytest.mark.parametrize(
    "config, field",
    [
        ({"cert_path": "/srv/a.pem", "key_path": "/srv/b.key", "layout": "current"}, "config.key_path"),
        ({"cert_path": "/srv/a.pem", "layout": "separate"}, "config.key_path"),
        ({"cert_path": "/srv/a b.pem"}, "config.cert_path"),
        ({"cert_path": "/srv/a;.pem"}, "config.cert_path"),
        ({"cert_path": "/srv/a<.pem"}, "config.cert_path"),
        ({"cert_path": "/srv/a\n.pem"}, "config.cert_path"),
    ],
)
def test_what_haproxy_would_not_find_is_refused(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        registry.decode_config("haproxy", config)
    assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.anyio
async def test_a_real_haproxy_loads_the_trial_and_refuses_a_wrong_key(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf, other = authority.issue_cert("a.test"), authority.issue_cert("a.test")
    certificate, key, wrong, combined = (tmp_path / name for name in ("c.pem", "k.pem", "w.pem", "both.pem"))
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    wrong.write_bytes(other.private_key_pem.bytes())
    combined.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    good: list[dict[Role, Path]] = [{"certificate": certificate, "key": key}, {"combined": combined}]
    passed = await trial(good, tmp_path / "one")
    assert passed.returncode == 0, passed.output
    refused = await trial([*good, {"certificate": certificate, "key": wrong}], tmp_path / "two")
    assert refused.returncode == 1
    assert "inconsistencies between private key and certificate" in refused.output


@pytest.mark.trio
async def test_renewals_over_the_socket_disturb_nobody(host: Host) -> None:
    assert isinstance(host.subject, RuntimeHAProxy)
    workers = host.subject.workers()
    runner = Counting()
    with visiting(host.subject) as fresh, visiting(host.subject, kept=True) as kept:
        for _ in range(5):
            issued = host.issue()
            outcome = await host.deployer(runner=runner).deploy(host.item(issued), issued.secret)
            assert outcome.outcome == "served", outcome
            assert host.serves(issued)
    assert fresh.failed == kept.failed == []
    assert min(fresh.served, kept.served) > 0
    assert host.subject.workers() == workers
    assert runner.seen == ["trial"] * 5


@pytest.mark.trio
async def test_a_later_reload_serves_the_same(host: Host) -> None:
    issued = host.issue()
    assert (await host.deploy(issued)).outcome == "served"
    host.subject.reload()
    until(lambda: host.serves(issued), "the same is served")


@pytest.mark.trio
async def test_many_certificates_of_one_haproxy_are_changed_together(tmp_path: Path) -> None:
    """One trial and no reload, also for those of which no file was there when HAProxy started."""
    with hosting(Folder, tmp_path) as host:
        assert isinstance(host.subject, Folder)
        workers = host.subject.workers()
        for names in (Folder.names[:1], Folder.names):
            runner, issued = Counting(), {name: host.authority.issue(name) for name in names}
            outcomes = await together(host, runner, issued)
            assert [outcome.outcome for outcome in outcomes] == ["served"] * len(names), outcomes
            seen = {name: host.subject.seen_as(name) for name in names}
            assert seen == {name: issued[name].fingerprint for name in names}
            assert runner.seen == ["trial"]
        assert host.subject.workers() == workers


@pytest.mark.trio
async def test_a_first_file_that_is_not_served_is_forgotten_again(tmp_path: Path) -> None:
    with hosting(Folder, tmp_path) as host:
        assert isinstance(host.subject, Folder)
        path, issued = host.subject.certs / "d.test.pem", host.authority.issue("d.test")
        probe = {"port": host.subject.port(), "sni": "shop.example.test", "timeout_s": 1}
        outcome = await host.deploy(issued, name="d.test", cert_path=str(path), probe=probe)
        assert (outcome.outcome, outcome.undo) == ("failed", "done")
        assert not path.exists()
        assert host.subject.seen_as("d.test") != issued.fingerprint
        assert str(path) not in await HAProxyRuntime(str(host.subject.folder / "socket"))._ask("show ssl cert")


@pytest.mark.trio
async def test_a_file_that_the_process_cannot_know_is_taken_by_a_reload(host: Host) -> None:
    """As when somebody adds a bind line and cannot reload before its file is there."""
    assert isinstance(host.subject, HAProxy)
    path, workers, runner = host.subject.folder / "live" / "new.pem", host.subject.workers(), Counting()
    host.subject.conf.write_text(host.subject.conf.read_text().replace("fullchain.pem", "new.pem"))
    issued = host.issue()
    outcome = await host.deployer(runner=runner).deploy(host.item(issued, cert_path=str(path)), issued.secret)
    assert outcome.outcome == "served", outcome
    assert runner.seen == ["trial", "pkill"]
    assert host.subject.workers().isdisjoint(workers)


@pytest.mark.trio
async def test_a_folder_may_be_named_through_a_link(tmp_path: Path) -> None:
    """The agent knows paths with the links of their folders resolved, HAProxy as haproxy.cfg spells them."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with hosting(RuntimeHAProxy, tmp_path / "link") as host:
        assert isinstance(host.subject, HAProxy)
        workers, issued = host.subject.workers(), host.issue()
        assert (await host.deploy(issued)).outcome == "served"
        assert host.subject.workers() == workers


@pytest.mark.trio
async def test_one_that_is_refused_leaves_no_transaction_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two committed together, the second is refused: the undo of the first needs a transaction of its own."""
    with hosting(Folder, tmp_path) as host:
        assert isinstance(host.subject, Folder)
        names = Folder.names[:2]
        old, new = ({name: host.authority.issue(name) for name in names} for _ in range(2))
        assert {outcome.outcome for outcome in await together(host, Counting(), old)} == {"served"}
        spoil(monkeypatch, new["b.test"], host.issue())
        outcomes = await together(host, Counting(), new)
        assert sorted((outcome.outcome, outcome.undo) for outcome in outcomes) == [
            ("failed", "done"),
            ("served", "not_needed"),
        ]
        assert host.subject.seen_as("a.test") == new["a.test"].fingerprint
        assert host.subject.seen_as("b.test") == old["b.test"].fingerprint


@pytest.mark.trio
@pytest.mark.parametrize("point", ["deploy.published", "deploy.reloaded"])
async def test_after_a_death_the_old_pair_is_back(host: Host, point: str) -> None:
    assert isinstance(host.subject, RuntimeHAProxy)
    workers, old, new = host.subject.workers(), host.issue(), host.issue()
    assert (await host.deploy(old)).outcome == "served"
    host.dies(new, point)
    assert len(await host.deployer().repair()) == 1
    assert host.serves(old)
    assert (await host.deploy(new)).outcome == "served"
    assert host.serves(new)
    assert host.subject.workers() == workers


@pytest.mark.trio
async def test_a_transaction_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """HAProxy has one at a time: the deployment is undone, says whose it is, and works when that is over."""
    with hosting(Folder, tmp_path) as host:
        assert isinstance(host.subject, Folder)
        runtime, theirs = HAProxyRuntime(str(host.subject.folder / "socket")), host.subject.certs / "a.test.pem"
        old, new = host.issue(), host.issue()
        first = await host.deploy(old)
        assert first.outcome == "served", first.failure
        await runtime._ask(f"set ssl cert {theirs}", Secret(old.key_pem + old.cert_pem))
        outcome = await host.deploy(new)
        assert outcome.failure is not None
        assert str(theirs) in outcome.failure.cause
        assert outcome.failure.transient
        assert host.serves(old)
        assert f"*{theirs}" in await runtime._ask("show ssl cert")
        await runtime._ask(f"abort ssl cert {theirs}")
        assert (await host.deploy(new)).outcome == "served"


@pytest.mark.trio
async def test_what_the_process_refuses_is_aborted_and_undone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial would have refused it; a pair that only the running process cannot take is not easily made."""
    old, new = host.issue(), host.issue()
    assert (await host.deploy(old)).outcome == "served"
    spoil(monkeypatch, new, host.issue())
    outcome = await host.deploy(new)
    assert outcome.failure is not None
    assert (outcome.failure.step, outcome.undo) == ("reloaded", "done")
    assert "inconsistencies between private key and certificate" in outcome.failure.cause
    assert "PRIVATE" not in outcome.failure.cause
    assert host.serves(old)
    assert "*" not in await HAProxyRuntime(str(host.subject.folder / "socket"))._ask("show ssl cert")


@pytest.mark.anyio
async def test_a_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Transient, match=r"absent cannot be used: No such file or directory; is HAProxy running"):
        await HAProxyRuntime(f"{tmp_path}/absent").take([{"combined": tmp_path / "a"}])


@pytest.mark.anyio
async def test_an_address_that_is_no_path_is_refused() -> None:
    service = Service(name="edge", type="haproxy", admin="127.0.0.1:9999")
    with pytest.raises(Misconfigured, match=r"admin of \[services.edge\] in agent.toml is no path"):
        await HAProxyTarget().apply(service, [])


@pytest.mark.anyio
async def test_what_the_socket_cannot_do_is_told(host: Host) -> None:
    certificate = host.subject.folder / "live" / "fullchain.pem"
    runtime = HAProxyRuntime(str(host.subject.folder / "user"))
    with pytest.raises(Transient, match="does the line `stats socket` say `level admin`"):
        await runtime.take([{"combined": certificate}])
    certificate.write_bytes(certificate.read_bytes() + host.issue().cert_pem * 20)
    with pytest.raises(Transient, match=r"does tune.bufsize hold the \d+ bytes"):
        await HAProxyRuntime(str(host.subject.folder / "socket")).take([{"combined": certificate}])


@pytest.mark.anyio
async def test_comments_and_empty_lines_of_a_file_stay_out_of_the_socket(host: Host) -> None:
    """As what was there before may be put back: an empty line would end the payload."""
    certificate, issued = host.subject.folder / "live" / "fullchain.pem", host.issue()
    key = issued.key_pem.replace(b"KEY-----\n", b"KEY-----\n\n", 1)
    certificate.write_bytes(b"# old\n\n" + key + b"\n\nBag Attributes\n" + issued.cert_pem + b"\n\n")
    assert await HAProxyRuntime(str(host.subject.folder / "socket")).take([{"combined": certificate}])
    seen = host.subject.seen()
    assert seen is not None
    assert seen.fingerprint == issued.fingerprint


@pytest.mark.trio
async def test_a_pair_with_the_key_beside_it_is_renewed_by_reloads(reloaded: Host) -> None:
    assert isinstance(reloaded.subject, HAProxy)
    live = reloaded.subject.folder / "live"
    (live / "fullchain.pem.key").write_bytes((live / "fullchain.pem").read_bytes())
    workers = reloaded.subject.workers()
    for layout in ("current", "separate"):
        issued = reloaded.issue()
        outcome = await reloaded.deploy(issued, layout=layout, key_path=str(live / "fullchain.pem.key"))
        assert outcome.outcome == "served", outcome
        assert (live / "fullchain.pem").read_bytes() == issued.cert_pem
        assert (live / "fullchain.pem.key").read_bytes() == issued.key_pem
    assert reloaded.subject.workers().isdisjoint(workers)


@pytest.mark.trio
async def test_a_stale_pid_file_hits_nobody(reloaded: Host) -> None:
    stranger = await trio.lowlevel.open_process(["/bin/sleep", "60"])
    (reloaded.subject.folder / "pid").write_text(f"{stranger.pid}\n")
    try:
        outcome = await reloaded.deploy(reloaded.issue())
        assert outcome.failure is not None
        assert "the reload failed" in outcome.failure.cause
        assert stranger.poll() is None
    finally:
        stranger.kill()
        await stranger.wait()


def spoil(monkeypatch: pytest.MonkeyPatch, issued: Issued, other: Issued) -> None:
    """Send another key with a certificate than the one in the files."""
    read, spoilt = haproxy_runtime._read, Secret(other.key_pem.strip() + b"\n" + issued.cert_pem)

    def read_wrongly(key: Path, certificate: Path) -> Secret[bytes] | None:
        content = read(key, certificate)
        return spoilt if content is not None and issued.cert_pem.strip() in content.reveal() else content

    monkeypatch.setattr(haproxy_runtime, "_read", read_wrongly)


async def together(host: Host, runner: HostRunner, issued: dict[str, Issued]) -> list[DeploymentOutcome]:
    """Deploy to all at once, after something that makes them wait for one another."""
    assert isinstance(host.subject, Folder)
    outcomes, deployer, certs = list[DeploymentOutcome](), host.deployer(runner=runner), host.subject.certs

    async def deploy(name: str) -> None:
        item = host.item(issued[name], target_id=f"tgt-{name[0]}", name=name, cert_path=f"{certs}/{name}.pem")
        outcomes.append(await deployer.deploy(item, issued[name].secret))

    lock = deployer._services["haproxy", "haproxy"].lock
    await lock.acquire()
    async with trio.open_nursery() as nursery:
        for name in issued:
            nursery.start_soon(deploy, name)
        await wait_all_tasks_blocked()
        lock.release()
    return outcomes


async def trial(staged: list[dict[Role, Path]], scratch: Path) -> CommandResult:
    await anyio.Path(scratch).mkdir()
    check = await HAProxyTarget().staged_check(SERVICE, staged, scratch, HostRunner())
    for name, text in check.files.items():
        (scratch / name).write_text(text)
    for name, path in check.links.items():
        (scratch / name).symlink_to(path)
    assert check.command is not None
    done = await anyio.run_process(check.command.argv, check=False, stderr=subprocess.STDOUT)
    return CommandResult(done.returncode, done.stdout.decode())
