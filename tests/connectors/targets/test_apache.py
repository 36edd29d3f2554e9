"""What the apache connector describes, and that a real Apache tries and serves what is deployed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import trustme

from connectors.targets import apache, registry
from connectors.targets.apache import ApacheTarget
from connectors.targets.base import Command, CommandResult, Role, Service
from core.errors import InvalidInput, Misconfigured
from tests.agent.deployment.world import until
from tests.connectors.targets.host import Host, hosting
from tests.journeys.targets.subjects.apache import Apache
from tests.journeys.targets.visitors import visiting

BINARY = "/usr/sbin/apache2"
SERVICE = Service(name="apache", type="apache")


class Runner:
    """Runs commands for both event loops."""

    async def run(self, command: Command) -> CommandResult:
        done = await anyio.run_process(command.argv, check=False, stderr=subprocess.STDOUT)
        return CommandResult(done.returncode, done.stdout.decode())


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with hosting(Apache, tmp_path) as host:
        yield host


def test_commands_name_this_service_alone() -> None:
    service = Service(name="e", type="apache", binary="/opt/httpd", config="/opt/e.conf", prefix="/opt/p")
    commands = ApacheTarget().commands(service)
    assert commands.check is not None
    assert commands.reload is not None
    assert commands.check.argv == ("/opt/httpd", "-t", "-d", "/opt/p", "-f", "/opt/e.conf")
    assert commands.reload.argv == ("/opt/httpd", "-k", "graceful", "-d", "/opt/p", "-f", "/opt/e.conf")


def test_by_default_the_host_knows_its_configuration() -> None:
    """Debian's needs the variables that apache2ctl sets."""
    assert ApacheTarget().commands(SERVICE).reload == Command(("/usr/sbin/apache2ctl", "-k", "graceful"))


def test_an_absent_apache_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apache, "CONTROLS", ("/nowhere/httpd",))
    with pytest.raises(Misconfigured, match=r"set binary in \[services.apache\]"):
        ApacheTarget().commands(SERVICE)


@pytest.mark.parametrize("path", ["/srv/%{HOST}.crt", "/srv/${A}.crt", '/srv/".crt', "/srv/a\\.crt", "/srv/a\n.crt"])
def test_what_apache_would_interpret_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        registry.decode_config("apache", {"cert_path": path, "key_path": "/srv/a.key"})
    assert [error.field for error in caught.value.errors] == ["config.cert_path"]


@pytest.mark.anyio
@pytest.mark.parametrize("binary", ["", "/usr/sbin/apache2ctl", BINARY])
async def test_a_real_apache_loads_the_trial(tmp_path: Path, binary: str) -> None:
    leaf = trustme.CA().issue_cert("a.test")
    certificate, combined, key = written(tmp_path, leaf, leaf)
    pairs: list[dict[Role, Path]] = [{"certificate": certificate, "key": key}, {"combined": combined}]
    passed, said = await trial(pairs, tmp_path, Service(name="apache", type="apache", binary=binary))
    assert passed, said
    running = await anyio.run_process(["pgrep", "-f", f"{tmp_path}/httpd.conf"], check=False)
    assert running.stdout == b""


@pytest.mark.anyio
async def test_the_trial_refuses_what_the_check_of_apache_lets_through(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate, combined, key = written(tmp_path, authority.issue_cert("a.test"), authority.issue_cert("a.test"))
    good = authority.issue_cert("b.test")
    (tmp_path / "good").mkdir()
    pairs: list[dict[Role, Path]] = [{"combined": written(tmp_path / "good", good, good)[1]}]
    wrongs: list[dict[Role, Path]] = [{"certificate": certificate, "key": key}, {"combined": combined}]
    for wrong in wrongs:
        passed, said = await trial([*pairs, wrong], tmp_path, SERVICE)
        assert not passed
        assert "AH02565" in said, said
    checked = await Runner().run(Command((BINARY, "-t", "-f", f"{tmp_path}/httpd.conf")))
    assert checked.returncode == 0, checked.output


@pytest.mark.anyio
async def test_a_key_that_is_too_short_for_this_host_is_refused(tmp_path: Path) -> None:
    """It belongs to its certificate, and would end a running Apache all the same: Debian asks for 112 bits."""
    words = "req -x509 -newkey rsa:1024 -nodes -subj /CN=weak -keyout k.pem -out c.pem"
    await anyio.run_process(["openssl", *words.split()], cwd=tmp_path)
    passed, said = await trial([{"certificate": tmp_path / "c.pem", "key": tmp_path / "k.pem"}], tmp_path, SERVICE)
    assert not passed
    assert "too small" in said, said


@pytest.mark.anyio
async def test_an_apache_without_tls_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apache, "MODULES", ())
    with pytest.raises(Misconfigured, match=r"no mod_ssl.so in /etc/apache2/modules"):
        await trial([{"combined": tmp_path / "a"}], tmp_path, SERVICE)


@pytest.mark.trio
async def test_renewals_are_served_and_no_visitor_notices(host: Host) -> None:
    with visiting(host.subject) as visitors:
        for layout in ("current", "current", "separate", "current"):
            issued = host.issue()
            outcome = await host.deploy(issued, layout=layout)
            assert outcome.outcome == "served", outcome
            assert host.serves(issued)
    assert visitors.failed == []
    assert visitors.served > 0


@pytest.mark.trio
@pytest.mark.parametrize("point", ["deploy.published", "deploy.reloaded"])
async def test_after_a_death_the_old_pair_is_back(host: Host, point: str) -> None:
    old, new = host.issue(), host.issue()
    assert (await host.deploy(old)).outcome == "served"
    host.dies(new, point)
    assert len(await host.deployer().repair()) == 1
    until(lambda: host.serves(old), "the old pair is served")
    assert (await host.deploy(new)).outcome == "served"


def written(folder: Path, leaf: trustme.LeafCert, other: trustme.LeafCert) -> tuple[Path, Path, Path]:
    """Write a certificate, the same with another's key in one file, and that key alone."""
    certificate, combined, key = (folder / name for name in ("c c.pem", "both.pem", "k.pem"))
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(other.private_key_pem.bytes())
    combined.write_bytes(key.read_bytes() + certificate.read_bytes())
    return certificate, combined, key


async def trial(staged: list[dict[Role, Path]], scratch: Path, service: Service) -> tuple[bool, str]:
    runner = Runner()
    check = await ApacheTarget().staged_check(service, staged, scratch, runner)
    for name, text in check.files.items():
        (scratch / name).write_text(text)
    assert check.command is not None
    result = await runner.run(check.command)
    return check.passed in result.output, result.output
