"""install-agent.sh on a Debian host: installed, twice, upgraded, back, removed; and what it installed does its work."""

from __future__ import annotations

import os
import ssl
from hashlib import sha256
from pathlib import Path

import pytest

from benchmarks.lab.fleet import API, Coordinator
from benchmarks.lab.processes import Process, free_ports, stopped_at_the_end, wait_until
from benchmarks.lab.servers import Site, write_placeholder
from benchmarks.lab.wire import Seen, look
from tests.installers.tree import OFFLINE, Tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot and mounts"),
]
INSTALL = ("sh", "/srv/certctl/installers/install-agent.sh")
SITE = "shop.example.test"
SERVER = "https://certctl.example.test:8443"


def install(host: Tree, *options: str, check: bool = True) -> str:
    done = host.run(*INSTALL, *options, env={**OFFLINE, "CERTCTL_INSTALL_WAIT": "12"}, check=check)
    return done.stdout + done.stderr


def install_new(host: Tree, *options: str) -> str:
    host.path("/srv/token").write_text("a-token-for-one-agent\n")
    return install(host, "--server", SERVER, "--token-file", "/srv/token", *host.source(), *options)


def current(host: Tree) -> str:
    return str(host.path("/opt/certctl-agent/current").readlink())


def test_an_ordinary_user_is_told(host: Tree) -> None:
    done = host.run(*INSTALL, "--server", SERVER, user="nobody", check=False)
    assert done.returncode == 1
    assert done.stderr == "install-agent.sh: needs root, to make an account and a service; with --dry-run it does not\n"
    before = host.files()
    told = host.run(*INSTALL, "--dry-run", "--server", SERVER, "--token", "t", *host.source(), user="nobody").stdout
    assert "would write: /etc/certctl/agent.env (0600)" in told
    assert host.files() == before


@pytest.mark.parametrize(
    "options, problem",
    [
        ((), "--server is required"),
        (("--server", "http://x.test", "--token", "t"), "--server: must be an https URL"),
        (("--server", SERVER), "--token is required for a new agent"),
        (("--server", SERVER, "--token", "t", "--ca-sha256", "xyz"), "--ca-sha256: must be 64 hexadecimal digits"),
        (("--server", SERVER, "--token", "t", "--targets", "iis"), "--targets: iis is not known"),
        (("--sever", SERVER), "unknown option --sever"),
        (("--server",), "--server needs a value"),
        (("--upgrade",), "there is nothing to upgrade"),
    ],
)
def test_what_is_wrong_changes_nothing(host: Tree, options: tuple[str, ...], problem: str) -> None:
    before = host.files()
    assert problem in install(host, *options, check=False)
    assert host.files() == before


def test_installed_twice_upgraded_back_and_removed(host: Tree) -> None:
    before = host.files()
    install_new(host, "--targets", "nginx,nginx", "--name", 'web "1" $HOME')
    assert host.mode("/etc/certctl/agent.env") == ("0600", "root")
    assert host.mode("/etc/certctl/agent.toml") == ("0644", "root")
    assert host.mode("/etc/sudoers.d/certctl-agent") == ("0440", "root")
    assert host.mode("/var/lib/certctl-agent") == ("0700", "certctl-agent")
    assert host.mode("/etc/nginx/certctl")[1] == "certctl-agent"
    host.run("visudo", "-c")
    name = host.run("sh", "-c", '. /etc/certctl/agent.env; printf "%s" "$CERTCTL_AGENT_NAME"').stdout
    assert name == 'web "1" $HOME'
    assert host.run("/usr/local/bin/certctl-agent", "--version", user="nobody").stdout == "0.1.0\n"
    holders = host.run("grep", "-rlF", "a-token-for-one-agent", "/etc", "/opt", "/var").stdout.split()
    assert holders == ["/etc/certctl/agent.env"]

    installed = host.files()
    told = install_new(host, "--targets", "nginx")
    assert "Keeping /etc/certctl/agent.env" in told
    assert host.files() == installed

    first = current(host)
    install(host, "--upgrade", *host.source())
    second = current(host)
    assert second != first
    host.path("/srv/broken.whl").write_text("no wheel")
    assert "nothing was changed" in install(host, "--upgrade", "--source", "/srv/broken.whl", check=False)
    assert (current(host), len(list(host.path("/opt/certctl-agent/versions").iterdir()))) == (second, 2)
    install(host, "--rollback")
    assert current(host) == first

    install(host, "--uninstall")
    left = {"etc/certctl", "etc/certctl/agent.env", "etc/certctl/agent.toml", "var/lib/certctl-agent"}
    certificates = {"etc/nginx/certctl", "etc/ssl/certctl"}
    assert host.files() - before == left | certificates
    install(host, "--uninstall", "--purge")
    assert host.files() - before == {"etc/nginx/certctl"}
    assert host.run("id", "certctl-agent", check=False).returncode != 0


STAND_IN = """#!/bin/sh
case ${1:-} in
  --version) echo 9.9 ;;
  --health) test "$CERTCTL_AGENT_LISTEN" = 127.0.0.1:9465 ;;
  *) exec sleep 60 ;;
esac
"""


def test_an_archive_is_watched_at_the_page_that_agents_have_by_default(host: Tree) -> None:
    """A self-contained build, here a stand-in; agent.env says nothing of the page."""
    packed = host.path("/srv/packed/certctl-agent-9.9/bin")
    packed.mkdir(parents=True)
    (packed / "certctl-agent").write_text(STAND_IN)
    (packed / "certctl-agent").chmod(0o755)
    host.run("tar", "-czf", "/srv/agent.tar.gz", "-C", "/srv/packed", "certctl-agent-9.9")
    host.add_systemctl()
    try:
        told = install(host, "--server", SERVER, "--token", "t", "--source", "/srv/agent.tar.gz")
        assert "Installed and running" in told, told
    finally:
        host.run("systemctl", "stop", "certctl-agent")


class World:
    """A coordinator beside the host, and on it a systemctl and an nginx that serves a placeholder."""

    def __init__(self, host: Tree, folder: Path) -> None:
        self.host = host
        self.coordinator = Coordinator(folder / "coordinator")
        self.port, self.page = free_ports(2)
        host.add_systemctl()
        site = Site(SITE, host.path("/etc/nginx/placeholder"))
        site.folder.mkdir()
        write_placeholder(site)
        host.path("/etc/nginx/certctl").mkdir()
        for path, name in ((site.cert_path, "shop.pem"), (site.key_path, "shop.key")):
            path.rename(host.path(f"/etc/nginx/certctl/{name}"))
        host.path("/etc/nginx/sites-enabled/default").unlink()
        host.path("/etc/nginx/conf.d/shop.conf").write_text(
            f"server {{ listen 127.0.0.1:{self.port} ssl; ssl_certificate /etc/nginx/certctl/shop.pem; "
            "ssl_certificate_key /etc/nginx/certctl/shop.key; }\n"
        )
        nginx = ["chroot", str(host.root), "/usr/sbin/nginx", "-g", "daemon off;"]
        self.nginx = Process("nginx", nginx, folder / "nginx.log", {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})

    def start(self) -> API:
        """Start what is beside the agent."""
        api = self.coordinator.start().api()
        self.nginx.start()
        self.nginx.await_ready(lambda: self.seen() is not None)
        return api

    def seen(self) -> Seen | None:
        """Look at what nginx serves."""
        return look(self.port, SITE)

    def close(self) -> None:
        """Stop the agent, and let go of the coordinator."""
        self.host.run("systemctl", "stop", "certctl-agent", check=False)
        self.coordinator.close()


def test_what_is_installed_serves_a_certificate_without_being_root(host: Tree, tmp_path: Path) -> None:
    """By the unit's own line, as its user; nginx is checked and reloaded by the two rules that were written for sudo.

    An upgrade whose agent does not reach the coordinator is undone.
    """
    world = World(host, tmp_path)
    with stopped_at_the_end([world.coordinator.process, world.nginx]):
        api = world.start()
        try:
            _serve(world, api)
        finally:
            world.close()


def _serve(world: World, api: API) -> None:
    host, placeholder = world.host, world.seen()
    host.path("/srv/token").write_text(world.coordinator.enrollment_token())
    root = sha256(ssl.PEM_cert_to_DER_cert(world.coordinator.ca_path.read_text())).hexdigest()
    where = ("--server", world.coordinator.url, "--ca-sha256", root, "--token-file", "/srv/token")
    install(host, *where, "--name", "web-1", "--targets", "nginx", *host.source(), "--no-start")
    for name in ("shop.pem", "shop.key"):
        host.run("chown", "certctl-agent", f"/etc/nginx/certctl/{name}")
    with host.path("/etc/certctl/agent.env").open("a") as settings:
        settings.write(
            f"CERTCTL_AGENT_LISTEN=127.0.0.1:{world.page}\nSSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\n"
        )
    told = install(host, "--targets", "nginx")
    assert "Installed and running" in told, told
    (agent,) = api.get("/api/v1/agents")["data"]
    assert agent["name"] == "web-1"
    config = {"cert_path": "/etc/nginx/certctl/shop.pem", "key_path": "/etc/nginx/certctl/shop.key"}
    target = {
        "name": "shop",
        "type": "nginx",
        "agent_id": agent["id"],
        "config": {**config, "probe": {"port": world.port}},
    }
    target_id = api.post("/api/v1/targets", target)["id"]
    made = api.post("/api/v1/certificates", {"common_name": SITE, "target_ids": [target_id]})
    run = api.follow(made["job_ids"][0])
    assert run["state"] == "served", run
    served = world.seen()
    assert served is not None
    assert placeholder is not None
    assert served.fingerprint != placeholder.fingerprint
    assert host.mode("/etc/nginx/certctl/shop.key") == ("0600", "certctl-agent")

    before, settings_path = current(host), host.path("/etc/certctl/agent.env")
    working = settings_path.read_text()
    settings_path.write_text(working.replace(world.coordinator.url, "https://127.0.0.1:9"))
    assert "the upgrade was undone" in install(host, "--upgrade", *host.source(), check=False)
    assert current(host) == before
    settings_path.write_text(working)
    install(host, "--upgrade", *host.source())
    assert current(host) != before
    wait_until("the upgraded agent is there", lambda: api.get("/api/v1/agents")["data"][0]["id"] == agent["id"])
