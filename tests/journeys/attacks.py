"""What an attacker asks of an agent: every field of a work item, with what could turn it into a command or a path.

Every path that is asked for lies on the journey's own ground, outside of what is allowed there: an agent that does fail
the journey must not harm the machine that it was played on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from core.names import Name, NameKind
from core.wire import DeploymentItem, IssuanceItem

LONG = "a" * 5000
_ARMOUR = "-----BEGIN " + "PRIVATE KEY-----\nAAAA"


@dataclass(frozen=True)
class Attack:
    """One deployment with some fields of the item, or of its configuration, replaced; None takes one away."""

    what: str
    item: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def of(self, honest: DeploymentItem, job_id: str) -> DeploymentItem:
        """Return the work item."""
        config = {**honest.config, **self.config}
        config = {name: value for name, value in config.items() if value is not None}
        changed = {"job_id": job_id, "config": config, **self.item}
        spoiled: DeploymentItem = msgspec.structs.replace(honest, **changed)
        return spoiled


@dataclass(frozen=True)
class Ground:
    """The victim's host: what it allows, and what lies around that."""

    allowed: Path
    outside: Path
    state: Path
    policy: Path
    server_config: Path
    marker: Path

    def prepare(self) -> None:
        """Lay out decoys: what must not be overwritten inside, what must not be reached outside."""
        self.outside.mkdir()
        self.allowed.with_name(f"{self.allowed.name}-sibling").mkdir()
        (self.outside / "real.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        (self.allowed / "site.conf").write_text("server { listen 1; }\n")
        (self.allowed / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (self.allowed / "deploy.sh").write_text(f"#!/bin/sh\ntouch {self.marker}\n")
        (self.allowed / "deploy.sh").chmod(0o755)
        (self.allowed / "folder").mkdir()
        (self.allowed / "out").symlink_to(self.outside)
        (self.allowed / "up").symlink_to("..")
        (self.allowed / "to-script").symlink_to("deploy.sh")
        (self.allowed / "to-real.pem").symlink_to(self.outside / "real.pem")
        (self.allowed / "to-nothing.pem").symlink_to(self.outside / "nothing.pem")


def shell(marker: Path) -> list[str]:
    """Return texts that touch a file wherever a shell, or a template, gets hold of them."""
    touch = f"touch {marker}"
    return [f"; {touch}", f"$({touch})", f"`{touch}`", f"| {touch}", f"& {touch} &", f"nginx; {touch}", f"\n{touch}\n"]


def on_deployments(ground: Ground) -> Iterator[Attack]:
    """Give every attack on a deployment."""
    yield from _on_paths(ground)
    yield from _on_names_of_commands(ground)
    yield from _on_ids(ground)
    yield from _on_fields(ground)


def _on_paths(ground: Ground) -> Iterator[Attack]:
    inside = str(ground.allowed)
    for path in (
        f"{ground.outside}/x.pem",
        f"{inside}/../{ground.outside.name}/x.pem",
        f"{inside}/out/x.pem",
        f"{inside}/up/x.pem",
        f"{inside}/out/../x.pem",
        f"{inside}-sibling/x.pem",
        f"/proc/self/root{ground.outside}/x.pem",
        f"{ground.state}/keys/x.pem",
        f"{ground.state}/identity/signing.key",
        str(ground.policy),
        str(ground.server_config),
        f"/{ground.outside}/x.pem",
        "x.pem",
        "~/x.pem",
        "./x.pem",
        "",
        "/",
        inside,
        f"{inside}/",
        f"{inside}/.",
        f"{inside}/..",
        f"{inside}/.certctl/tgt-web/versions/1/x.pem",
        f"{inside}/x.pem\0.conf",
        f"{inside}/x\n.pem",
        f"{inside}/x\r.pem",
        f"{inside}/$pid.pem",
        f'{inside}/x".pem',
        f"{inside}/x'.pem",
        f"{inside}/x;load_module evil.so;.pem",
        f"{inside}/x{{}}.pem",
        f"{inside}/x\\.pem",
        f"{inside}/{LONG}.pem",
        f"{inside}/" + "a/" * 1900 + "x.pem",
        f"{inside}/site.conf",
        f"{inside}/passwd",
        f"{inside}/deploy.sh",
        f"{inside}/to-script",
        f"{inside}/folder",
    ):
        for name in ("cert_path", "key_path", "chain_path"):
            yield Attack(f"{name}={path[-60:]!r}", config={name: path})
        yield Attack(f"combined={path[-60:]!r}", config={"cert_path": path, "key_path": None, "layout": "combined"})


def with_odd_paths(ground: Ground) -> Iterator[Attack]:
    """Give deployments to paths that are allowed: commands if a shell ever saw them, and links that lead outside.

    A link at the very path is replaced, and nothing is written through it.
    """
    for text in (*shell(ground.marker), "to-real.pem", "to-nothing.pem"):
        yield Attack(f"chain_path={text!r}", config={"chain_path": f"{ground.allowed}/{text}"})


def _on_names_of_commands(ground: Ground) -> Iterator[Attack]:
    names = [*shell(ground.marker), "/bin/sh", "../../bin/sh", "touch", "", "nginx\n", LONG, "web\0", "web-2"]
    for name in names:
        for field_name in ("service", "validate_action", "reload_action"):
            yield Attack(f"{field_name}={name[:40]!r}", config={field_name: name})
    argv = ["/usr/bin/touch", str(ground.marker)]
    for field_name in ("reload_command", "validate_command", "binary", "config", "argv", "command", "prefix", "env"):
        yield Attack(field_name, config={field_name: argv})
        yield Attack(f"{field_name} as text", config={field_name: " ".join(argv)})
    yield Attack("an action as argv", config={"reload_action": argv})
    yield Attack("a service as a table", config={"service": {"name": "web", "type": "nginx", "binary": argv[0]}})
    types = ("../../x", "os", "base", "registry", "nginx/../os", "nginx\0", "", "__init__", "connectors.targets.nginx")
    for target_type in (*types, *shell(ground.marker), LONG):
        yield Attack(f"target_type={target_type[:40]!r}", item={"target_type": target_type})


def _on_ids(ground: Ground) -> Iterator[Attack]:
    ids = (
        "../../x",
        f"{ground.outside}/x",
        "mc-../../x",
        "tgt-/x",
        "..",
        ".",
        "",
        f"mc-{LONG}",
        "mc-a\n",
    )
    for value in (*ids, f"tgt-{LONG}", "mc-a\0", *shell(ground.marker)):
        for name in ("certificate_id", "target_id"):
            yield Attack(f"{name}={value[:40]!r}", item={name: value})
    for value in ("../../identity/signing.key", f"{ground.state}/identity/signing.key", "0" * 64, "", "\n", LONG):
        yield Attack(f"spki_sha256={value[:40]!r}", item={"spki_sha256": value})


def _on_fields(ground: Ground) -> Iterator[Attack]:
    for owner in (*shell(ground.marker), "4294967295", "9" * 25, "9" * 5000, "-1", "a\0b", "nobody-like-that", ""):
        for name in ("owner", "group"):
            yield Attack(f"{name}={owner[:30]!r}", config={name: owner})
    for mode in ("4755", "0777", "6000", "04600", 2541, "0o4755", "u+s", "-1"):
        yield Attack(f"key_mode={mode}", config={"key_mode": mode})
        yield Attack(f"cert_mode={mode}", config={"cert_mode": mode})
    for host in ("a;b", "evil\r\nHost: x", "a" * 254, "http://x/", "[::1", "-oProxyCommand=x", "a b", "\0", ""):
        yield Attack(f"probe.host={host[:30]!r}", config={"probe": {"host": host}})
        yield Attack(f"probe.sni={host[:30]!r}", config={"probe": {"port": 1, "sni": host, "timeout_s": 0.2}})
    for port in (0, -1, 65536, "443; id"):
        yield Attack(f"probe.port={port}", config={"probe": {"port": port}})
    yield Attack("probe.timeout_s", config={"probe": {"port": 1, "timeout_s": 1e9}})
    yield Attack("layout", config={"layout": "../x"})
    yield Attack("keep", config={"keep": -1})
    for text in (
        f"a\n{_ARMOUR}",
        "\0",
        LONG,
        f"$(touch {ground.marker})",
    ):
        config = {"probe": {"port": 1, "timeout_s": 0.2}}
        yield Attack(f"names={text[:30]!r}", item={"names": (Name(NameKind.DNS, text),)}, config=config)


def on_chains(honest: DeploymentItem, other: bytes, huge: bytes) -> Iterator[Attack]:
    """Give every attack on what is installed; ``other`` certifies another key, ``huge`` is a certificate of 1 MiB."""
    (leaf,) = honest.chain
    text = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\nload_module evil.so;\n"
    yield Attack("no chain", item={"chain": ()})
    yield Attack("no certificate", item={"chain": (b"load_module evil.so;",)})
    yield Attack("PEM", item={"chain": (text,)})
    yield Attack("text after the leaf", item={"chain": (leaf + b"\nload_module evil.so;\n",)})
    yield Attack("text after an issuer", item={"chain": (leaf, leaf + b"\nload_module evil.so;\n")})
    yield Attack("text as an issuer", item={"chain": (leaf, text)})
    yield Attack("eleven certificates", item={"chain": (leaf,) * 11})
    yield Attack("ten thousand certificates", item={"chain": (leaf,) * 3000})
    yield Attack("a megabyte of zeros", item={"chain": (leaf, b"\0" * (1 << 20))})
    yield Attack("a certificate of a megabyte", item={"chain": (leaf, huge)})
    yield Attack("another key's certificate", item={"chain": (other,)})
    yield Attack("another fingerprint", item={"fingerprint": "0" * 64})


def on_issuances(ground: Ground) -> Iterator[IssuanceItem]:
    """Give every attack on making a key; nothing of it may be stored but under a certificate's own folder."""
    honest = IssuanceItem("job-0", 1, "mc-web", "a.test", (Name(NameKind.DNS, "a.test"),), "ecdsa-p256")
    ids = (
        "../../x",
        f"{ground.outside}/x",
        "mc-../x",
        "..",
        "",
        f"mc-{LONG}",
        "mc-a\n",
        "mc-a/b",
        "mc-a\0",
    )
    changes: list[dict[str, Any]] = [{"certificate_id": value} for value in (*ids, *shell(ground.marker))]
    changes += [{"key_algorithm": value} for value in ("rsa-1", "rsa-999999999", "../x", "", LONG)]
    changes += [{"common_name": value} for value in ("a\0b", "a\nb", "..", LONG, f"$(touch {ground.marker})")]
    changes += [
        {"names": (Name(kind, value),)}
        for kind in NameKind
        for value in (f"a\n{_ARMOUR}", "\0", "", "ü", LONG, f"$(touch {ground.marker})")  # pragma: allowlist secret
    ]
    for number, change in enumerate(changes):
        # Each under a certificate of its own, so that one request does not take the place of another.
        own = {"job_id": f"job-i{number}", "certificate_id": f"mc-i{number}", **change}
        item: IssuanceItem = msgspec.structs.replace(honest, **own)
        yield item


def job_ids(marker: Path) -> list[str]:
    """Return ids of jobs that would break the request in which they are named."""
    odd = [
        "../../../../x",
        "/x",
        "http://127.0.0.1:1/",
        "@127.0.0.1:1",
        "a?b#c",
        "a b",
        "",
        ",",
        "\r\nX: y",
        "\0",
        "ü",
    ]
    return [*odd, *shell(marker), "j" * 100_000]
