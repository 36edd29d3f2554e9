"""install-coordinator.sh on a Debian host: what it installs runs as its unit says, and goes again without a trace."""

from __future__ import annotations

import os
import re

import pytest

from benchmarks.lab.processes import free_ports
from tests.installers.tree import OFFLINE, Tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot and mounts"),
]
INSTALL = ("sh", "/srv/certctl/installers/install-coordinator.sh")
SETTINGS = "/etc/certctl/coordinator.env"


def install(host: Tree, *options: str, check: bool = True) -> str:
    done = host.run(*INSTALL, *options, env={**OFFLINE, "CERTCTL_INSTALL_WAIT": "60"}, check=check)
    return done.stdout + done.stderr


def test_it_runs_as_its_unit_says_and_goes_again(host: Tree) -> None:
    """With a PostgreSQL of its own, as its own user; upgraded, brought back, and removed with and without its data."""
    before = host.files()
    server, pki, metrics = free_ports(3)
    host.add_systemctl()
    assert "Installed. It starts with the host" in install(host, *host.source(), "--no-start")
    assert host.mode(SETTINGS) == ("0600", "root")
    with host.path(SETTINGS).open("a") as settings:
        settings.write(f"CERTCTL_SERVER_PORT={server}\nCERTCTL_PKI_PORT={pki}\n")
        settings.write(f"CERTCTL_METRICS_LISTEN=127.0.0.1:{metrics}\n")
    try:
        told = install(host, check=False)
        assert "Installed and running" in told, told + host.path("/var/log/certctl-coordinator-by-unit.log").read_text()
        assert "Keeping /etc/certctl/coordinator.env" in told
        assert host.mode("/var/lib/certctl") == ("0700", "certctl")
        assert host.mode("/var/lib/certctl/admin.key") == ("0600", "certctl")
        here = f"set -a; . {SETTINGS}; CERTCTL_SERVER_URL=https://127.0.0.1:{server}"
        as_told = f"{here}; /usr/local/bin/certctl enrollment-tokens create"
        assert re.search(r"\bcte_\S{20,}", host.run("sh", "-c", as_told).stdout)
        first = host.path("/opt/certctl/current").readlink()
        assert "Upgraded" in install(host, "--upgrade", *host.source())
        assert host.path("/opt/certctl/current").readlink() != first
        install(host, "--rollback")
        assert host.path("/opt/certctl/current").readlink() == first
        assert "stay; --uninstall --purge removes them too" in install(host, "--uninstall")
        assert host.path("/var/lib/certctl/admin.key").exists()
        assert not host.path("/opt/certctl").exists()
    finally:
        host.run("systemctl", "stop", "certctl-coordinator", check=False)
    assert "Removed." in install(host, "--uninstall", "--purge")
    assert host.files() - before <= {"usr/bin/systemctl", "run/systemd"}


def test_what_is_wrong_changes_nothing(host: Tree) -> None:
    host.add_systemctl()
    before = host.files()
    assert "--url: must be an https URL" in install(host, "--url", "http://x.test", check=False)
    assert "--database-file: /nowhere cannot be read" in install(host, "--database-file", "/nowhere", check=False)
    assert host.files() == before
