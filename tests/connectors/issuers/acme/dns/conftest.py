"""Two DNS servers: one with zones of its own, and another that is a server of one of them and lags behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.lab.processes import free_ports, stopped_at_the_end
from connectors.issuers.acme.dns.lookup import DNSConfig
from tests.connectors.issuers.acme.dns.bind import Bind, Lagging

EXAMPLE = """@ IN NS ns
ns IN A 127.0.0.1
* IN A 127.0.0.1
_acme-challenge.alias IN CNAME first.delegated.test.
_acme-challenge.round IN CNAME round.example.test.
round IN CNAME _acme-challenge.round.example.test.
"""
DELEGATED = "@ IN NS ns\nns IN A 127.0.0.1\nfirst IN CNAME Second\n"
ROOT = "@ IN NS ns.example.test.\n"
"""So that nobody outside is asked."""
SLOW = "@ IN NS ns1\n@ IN NS ns2\nns1 IN A 127.0.0.1\nns2 IN A 127.0.0.2\nwww IN A 127.0.0.1\n"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bind, Lagging]]:
    """Both of them."""
    folder = tmp_path_factory.mktemp("bind")
    (port,) = free_ports(1)
    zones = {"example.test": EXAMPLE, "delegated.test": DELEGATED, "slow.test": SLOW, ".": ROOT}
    first = Bind(folder / "first", "127.0.0.1", port, zones)
    with stopped_at_the_end([first.process]), Lagging("127.0.0.2", port) as second:
        first.start()
        yield first, second


@pytest.fixture
def bind(servers: tuple[Bind, Lagging]) -> Bind:
    """The first."""
    return servers[0]


@pytest.fixture
def asking(bind: Bind) -> DNSConfig:
    """How they are asked."""
    return DNSConfig(nameservers=("127.0.0.1",), port=bind.port, propagation_deadline_s=20)
