"""A certificate that is served without its chain is not served: told, undone, and mended by what is due."""

from __future__ import annotations

import re

import pytest

from tests.agent.deployment.world import World

pytestmark = pytest.mark.trio


def _strip_chain(world: World) -> None:
    """Let nginx read copies of the pair, of which each reload makes new ones with the leaf alone."""
    script, leaf, key = (world.folder / name for name in ("reload.sh", "leaf.pem", "leaf.key"))
    leaf.write_bytes(world.cert.read_bytes())
    key.write_bytes(world.key.read_bytes())
    world.nginx.write_config(leaf, key)
    script.write_text(
        f"#!/bin/sh\nset -e\nopenssl x509 -in '{world.cert}' -out '{leaf}'\ncp '{world.key}' '{key}'\n"
        f"exec /usr/sbin/nginx -s reload -c '{world.nginx.config}'\n"
    )
    script.chmod(0o755)
    world.write_policy(f'[actions.strip]\nargv = ["{script}"]', service='reload_action = "strip"')


async def test_the_missing_part_is_named_and_everything_undone(world: World) -> None:
    old, new = await world.install(), world.authority.issue()
    _strip_chain(world)
    outcome = await world.deploy(new, probe={"timeout_s": 1})
    assert outcome.failure is not None
    assert outcome.failure.step == "served"
    assert outcome.failure.cause.startswith(
        f"127.0.0.1:{world.nginx.port} (a.test) serves the certificate {new.fingerprint}, but its chain is incomplete: "
        "without CN=Test Intermediate, 1 sent of 2; does its configuration name the file with the whole chain?"
    )
    assert (outcome.undo, outcome.served_fingerprint) == ("done", old.fingerprint)
    assert world.holds(old)
    assert world.journals() == []


async def test_what_was_seen_is_reported(world: World) -> None:
    await world.install()
    outcome = await world.deploy(world.authority.issue())
    (served,) = (step for step in outcome.steps if step.name == "served")
    assert re.fullmatch(rf"127.0.0.1:{world.nginx.port} \(a.test\): TLSv1.[23], 2 certificates sent", served.detail)
