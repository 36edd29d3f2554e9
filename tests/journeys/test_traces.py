"""One trace from the request to the served certificate, across coordinator and agent, as a receiver sees it."""

from __future__ import annotations

import pytest

from benchmarks.lab.processes import wait_until
from tests.journeys.stage import Journey, Stage
from tests.otlp import Span, receiving

pytestmark = pytest.mark.timeout(180)
SITE = "shop.example.test"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_certificate_is_one_trace_from_the_request_to_what_is_served(stage: Stage) -> None:
    """Asked for within the caller's own trace; then renewed, which is a trace of its own."""
    with receiving() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        coordinator, server = stage.coordinator(**env), stage.nginx("web", SITE)
        agent = stage.agent("edge", coordinator, server.policy(), **env)
        journey = Journey(coordinator)
        target = journey.target(agent, server, SITE)
        journey.api.http.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
        certificate_id = journey.want(SITE, target)
        del journey.api.http.headers["traceparent"]
        first = journey.served(server, SITE)
        journey.settled(certificate_id)
        journey.renew(certificate_id)
        journey.served(server, SITE, instead_of=first)
        journey.settled(certificate_id)

        def reported() -> list[Span]:
            return [span for span in receiver.spans if span.name.endswith("/result")]

        wait_until("both reports are in a trace", lambda: len(reported()) == 2, 20)
        assert [process.stop() for process in (agent.process, coordinator.process)] == [0, 0]
    traces = [span.trace for span in receiver.spans if span.name.endswith("/result")]
    assert len(set(traces)) == 2
    assert TRACE in traces
    for trace in traces:
        spans = {span.name: span for span in receiver.spans if span.trace == trace}
        check_one(spans, PARENT if trace == TRACE else "")


def check_one(spans: dict[str, Span], parent: str) -> None:
    """See that a trace has every step in its place."""
    own = "/api/v1/agents/{agent_id}/jobs/{job_id}"
    (root,) = [name for name, span in spans.items() if span.parent == parent]
    assert root.startswith("POST /api/v1/certificates")
    places = {
        "issuance": root,
        "key": "issuance",
        "csr": "issuance",
        f"POST {own}/csr": "issuance",
        "sign": f"POST {own}/csr",
        "deployment": f"POST {own}/csr",
        "validated": "deployment",
        "reloaded": "deployment",
        "served": "deployment",
        f"POST {own}/result": "deployment",
    }
    for name, above in places.items():
        assert spans[name].parent == spans[above].id, name
    services = {name: span.service for name, span in spans.items()}
    assert (services["key"], services["sign"]) == ("certctl-agent", "certctl-coordinator")
    assert spans[f"POST {own}/result"].attributes["certctl.outcome"] == "served"
    assert not any(span.error for span in spans.values())
