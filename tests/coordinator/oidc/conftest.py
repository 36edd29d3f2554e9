"""A certificate that the providers show, and coordinators that trust it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import trustme


class Shown(NamedTuple):
    """A TLS pair for localhost and the root above it."""

    certificate: Path
    key: Path
    ca: Path


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """What a provider on this machine shows."""
    folder = tmp_path_factory.mktemp("provider")
    pair = Shown(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(pair.certificate)
    leaf.private_key_pem.write_to_path(pair.key)
    authority.cert_pem.write_to_path(pair.ca)
    return pair
