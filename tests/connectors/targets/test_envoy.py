"""What the Envoy connector describes, and that a real Envoy understands its trial configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from connectors.targets.base import CONFIG_MARK, FileSpec, Service
from connectors.targets.envoy import EnvoyConfig, EnvoyTarget
from tests.connectors.targets.trying import MATERIAL, staged_pairs, trial
from tests.programs import ENVOY

SERVICE = Service(name="envoy", type="envoy", binary=ENVOY, config="/etc/envoy/envoy.yaml")


def described(**config: Any) -> list[FileSpec]:
    given = {"cert_path": "/srv/a.crt", "key_path": "/srv/a.key", "sds_path": "/srv/sds/a.yaml", **config}
    return list(EnvoyTarget().files(msgspec.convert(given, EnvoyConfig), MATERIAL))


def test_the_secret_names_the_pair_and_its_own_folder_and_comes_last() -> None:
    files = described(sds_name="shop")
    assert [spec.role for spec in files] == ["certificate", "key", "config"]
    text = files[-1].content.reveal()
    assert text.startswith(CONFIG_MARK + b" for " + b"f" * 64)
    assert yaml.safe_load(text) == {
        "resources": [
            {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                "name": "shop",
                "tls_certificate": {
                    "certificate_chain": {"filename": "/srv/a.crt"},
                    "private_key": {"filename": "/srv/a.key"},
                    "watched_directory": {"path": "/srv/sds"},
                },
            }
        ]
    }


def test_a_secret_path_that_cannot_be_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"sds_path: must end in \.yaml"):
        described(sds_path="/srv/sds/a.pb")


def test_the_check_names_this_service_alone_and_there_is_no_reload() -> None:
    commands = EnvoyTarget().commands(Service(name="e", type="envoy", binary="/opt/envoy", config="/opt/e.yaml"))
    assert commands.check is not None
    assert commands.check.argv == ("/opt/envoy", "--mode", "validate", "--log-level", "error", "-c", "/opt/e.yaml")
    assert commands.reload is None


@pytest.mark.anyio
async def test_a_real_envoy_loads_the_trial_and_refuses_a_wrong_key(tmp_path: Path) -> None:
    pairs = staged_pairs(tmp_path)
    right = await trial(EnvoyTarget(), SERVICE, [pairs["apart"], pairs["combined"]], tmp_path)
    assert right.returncode == 0, right.output
    wrong = await trial(EnvoyTarget(), SERVICE, [pairs["apart"], pairs["wrong"]], tmp_path)
    assert wrong.returncode == 1
    assert "KEY_VALUES_MISMATCH" in wrong.output
