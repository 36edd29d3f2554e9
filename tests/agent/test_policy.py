"""agent.toml: what it may say, who may have written it, and which paths it lets through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import agent.policy
from agent.policy import DEFAULT_ALLOWED_PATHS, Action, Challenges, HostPolicy, Perspective, load_policy
from connectors.targets.base import Command, Service, SSHFacts
from core.errors import InvalidInput, Misconfigured, Refused

GOOD = """
allowed_paths = ["/etc/nginx/certctl", "/srv/tls"]
allowed_target_types = ["nginx"]

[actions.reload-nginx]
argv = ["/usr/bin/sudo", "-n", "/usr/sbin/nginx", "-s", "reload"]
timeout_s = 12.5

[services.edge]
type = "nginx"
config = "/etc/nginx/edge.conf"
reload_action = "reload-nginx"
"""


def load(folder: Path, text: str, mode: int = 0o600) -> HostPolicy:
    path = folder / "agent.toml"
    path.write_text(text)
    path.chmod(mode)
    return load_policy(path)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    policy = load(tmp_path, GOOD)
    assert policy.allowed_paths == ("/etc/nginx/certctl", "/srv/tls")
    argv = ("/usr/bin/sudo", "-n", "/usr/sbin/nginx", "-s", "reload")
    assert policy.action("reload-nginx") == Command(argv, 12.5)
    assert policy.service("nginx", "edge").config == "/etc/nginx/edge.conf"
    policy.check_type("nginx")
    with pytest.raises(Refused, match='add "apache" to allowed_target_types'):
        policy.check_type("apache")


def test_the_documented_example_is_a_file_that_is_read(tmp_path: Path) -> None:
    lines = (agent.policy.__doc__ or "").splitlines()
    example = "\n".join(line.removeprefix("    ") for line in lines if not line or line.startswith("    "))
    policy = load(tmp_path, example)
    assert policy.allowed_target_types == ("nginx", "files")
    assert set(policy.actions) == {"reload-nginx", "check-mail", "reload-mail"}
    assert policy.service("files", "mail").reload_action == "reload-mail"
    known = set(Service.__struct_fields__) - {"name", "ssh"}
    known |= set(SSHFacts.__struct_fields__) - {"host_keys"}  # which is told as another way than known_hosts
    told = {line.split(" = ")[0].strip() for line in example.splitlines() if " = " in line and line[0] != "#"}
    assert (
        known
        | set(Action.__struct_fields__)
        | set(Challenges.__struct_fields__)
        | set(Perspective.__struct_fields__)
        | {"allowed_paths", "allowed_target_types", "allowed_owners", "accept_coordinator_keys"}
        == told
    )


def test_defaults_without_the_file(tmp_path: Path) -> None:
    policy = load_policy(tmp_path / "agent.toml")
    assert policy.allowed_paths == DEFAULT_ALLOWED_PATHS
    assert policy.service("nginx", "nginx").config == ""
    policy.check_type("nginx")
    with pytest.raises(Refused, match=r"\[services\.edge\]"):
        policy.service("nginx", "edge")


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="does not exist"):
        load_policy(tmp_path / "agent.toml", required=True)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_trusted(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Misconfigured, match="not trusted"):
        load(tmp_path, GOOD, mode)


def test_a_file_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    path = tmp_path / "agent.toml"
    path.write_text(GOOD)
    path.chmod(0o600)
    os.chown(path, 12345, 12345)
    with pytest.raises(Misconfigured, match="chown root"):
        load_policy(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="not a regular file"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("allowed_paths = ", "not valid TOML"),
        ("allowed_path = []", "allowed_path: is not a known field"),
        ('allowed_paths = ["etc"]', "'etc' must be an absolute folder"),
        ('allowed_paths = ["/"]', "'/' must be an absolute folder below /"),
        ('allowed_paths = ["/etc/.."]', "must be an absolute folder below /"),
        ('allowed_paths = "/etc"', "allowed_paths: expected `array`"),
        ('allowed_target_types = ["ngnix"]', "unknown target type 'ngnix'"),
        ("[actions.a]", "actions.a.argv: is required"),
        ("[actions.a]\nargv = []", "actions.a.argv: expected `array` of length >= 1"),
        ('[actions.a]\nargv = ["nginx"]', "actions.a.argv: must start with the absolute path"),
        ('[actions.a]\nargv = "/bin/sh -c x"', "actions.a.argv: expected `array`"),
        ('[actions.a]\nargv = ["/bin/x"]\ntimeout = 3', "actions.a.timeout: is not a known field"),
        ('[actions.a]\nargv = ["/bin/x"]\ntimeout_s = 0', "actions.a.timeout_s"),
        ('[actions."a b"]\nargv = ["/bin/x"]', "the name must be 1 to 64"),
        ("[perspective]\nenable = true", "perspective.enable: is not a known field"),
        ('[perspective]\nallowed_networks = ["10.0.0.1/8"]', "allowed_networks: 10.0.0.1/8 has host bits set; write"),
        ('[perspective]\nresolvers = ["dns.test"]', "resolvers: holds 'dns.test'; write addresses like 192.0.2.53:53"),
        ("[perspective]\nhttp_port = 0", "perspective.http_port"),
        ("[services.a]", "services.a.type: is required"),
        ('[services.a]\ntype = "x"', "services.a.type: unknown target type 'x'"),
        ('[services.a]\ntype = "nginx"\nname = "b"', "without a key 'name'"),
        ('[services.a]\ntype = "nginx"\nbinary = "nginx"', "services.a.binary: 'nginx' must be an absolute path"),
        ('[services.a]\ntype = "nginx"\nreload_action = "r"', "services.a.reload_action: no action 'r' in this file"),
    ],
)
def test_mistakes_are_named_with_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, text)
    assert words in caught.value.detail
    assert str(tmp_path / "agent.toml") in caught.value.detail


def test_a_service_of_another_type_is_refused() -> None:
    policy = HostPolicy()
    with pytest.raises(Refused):
        policy.service("nginx", "apache")


def test_a_path_inside_is_returned_with_its_folder_resolved(tmp_path: Path) -> None:
    inside, real = tmp_path / "inside", tmp_path / "inside" / "real"
    real.mkdir(parents=True)
    (inside / "link").symlink_to(real)
    policy = HostPolicy(allowed_paths=(str(inside),))
    assert policy.check_path(str(inside / "link" / "a.pem")) == real / "a.pem"
    assert policy.check_path(str(inside / "not" / "yet" / "a.pem")) == inside / "not" / "yet" / "a.pem"


def test_an_allowed_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "allowed").symlink_to(tmp_path / "real")
    policy = HostPolicy(allowed_paths=(str(tmp_path / "allowed"),))
    assert policy.check_path(str(tmp_path / "allowed" / "a.pem")) == tmp_path / "real" / "a.pem"


def test_a_link_that_leads_outside_is_refused_with_the_line_to_add(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    policy = HostPolicy(source=tmp_path / "agent.toml", allowed_paths=(str(tmp_path / "inside"),))
    with pytest.raises(Refused) as caught:
        policy.check_path(str(tmp_path / "inside" / "link" / "a.pem"))
    assert f'add "{tmp_path}/outside" to allowed_paths in {tmp_path}/agent.toml' in caught.value.detail


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "a/b",
        "/srv/a/../b",
        "/srv/a/./b",
        "/srv//a",
        "//srv/a",
        "/srv/a/",
        "/srv/a\0",
        "/srv/a\n",
        "/srv/a\x7f",
    ],
)
def test_spellings_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        HostPolicy(allowed_paths=("/srv",)).check_path(path)


@pytest.mark.parametrize("path", ["/srv-other/a", "/srv", "/etc/passwd", "/srv/.certctl/tgt/versions/1/key.pem"])
def test_places_that_are_refused(path: str) -> None:
    with pytest.raises(Refused):
        HostPolicy(allowed_paths=("/srv",)).check_path(path)


def test_a_folder_that_everybody_may_write_in_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Refused, match="chmod o-w"):
        HostPolicy(allowed_paths=(str(tmp_path),)).check_path(str(tmp_path / "a.pem"))


def test_unknown_actions_are_refused_with_the_line_to_add() -> None:
    with pytest.raises(Refused, match=r"\[actions\.reboot\]"):
        HostPolicy().action("reboot")
