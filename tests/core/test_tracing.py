"""Traces: what is sent when they are on, and that nothing is loaded when they are off."""

from __future__ import annotations

import subprocess
import sys

import pytest

from core import tracing
from core.errors import Misconfigured, Refused
from tests.otlp import Receiver, Span, receiving

SECRET = "what the caller shall not read in a trace"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> object:
    with receiving() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setattr(tracing, "_tracer", None)
        yield found


def sent(receiver: Receiver) -> dict[str, Span]:
    """Trace something; return what arrived by name."""
    end = tracing.configure("certctl-test", {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    with tracing.span("outer", job_id="job-1"):
        place = tracing.current()
        tracing.measured("step", 5.0)
        with pytest.raises(Refused), tracing.span("failing"):
            raise Refused(SECRET)
        tracing.note(failed=True, outcome="failed")
    assert tracing.current() == ""
    with tracing.span("elsewhere", place):
        pass
    with tracing.span("another", "no traceparent"):
        pass
    end()
    return {span.name: span for span in receiver.spans}


def test_steps_arrive_with_their_place_in_the_trace(receiver: Receiver) -> None:
    spans = sent(receiver)
    outer = spans["outer"]
    assert (outer.service, outer.parent, outer.error) == ("certctl-test", "", "")
    assert outer.attributes == {"certctl.job_id": "job-1", "certctl.outcome": "failed"}
    for name in ("step", "failing", "elsewhere"):
        assert (spans[name].trace, spans[name].parent) == (outer.trace, outer.id), name
    assert 4_900_000 < spans["step"].ended - spans["step"].started < 5_100_000
    assert spans["another"].trace != outer.trace


def test_an_error_is_told_by_its_type_alone(receiver: Receiver) -> None:
    assert sent(receiver)["failing"].error == "Refused"
    assert not any(SECRET.encode() in body for body in receiver.bodies)


def test_off_means_that_nothing_is_loaded() -> None:
    code = """
import sys
from core import tracing
import agent.main, coordinator.main
tracing.configure("x", {})
with tracing.span("a"):
    tracing.measured("b", 1.0)
    tracing.note(c="d")
    assert tracing.current() == ""
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(Misconfigured, match=r"OTEL_EXPORTER_OTLP_ENDPOINT.*certctl\[tracing\]"):
        tracing.configure("x", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
