"""Traces by OpenTelemetry: one from the request to the served certificate, across coordinator and agent.

Off unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` names a receiver: until then nothing of OpenTelemetry is imported, and every
function here returns at once. Where a trace goes on is told in W3C's words (``traceparent``): with a job, and as a
header.

Spans have ids and names of steps, never what failed or was configured: that stays in the log and the API.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING

from core.errors import Misconfigured

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
HEADER = "traceparent"
_NS_PER_MS = 1_000_000
_tracer: Tracer | None = None


def configure(service: str, environ: Mapping[str, str]) -> Callable[[], None]:
    """Send traces of this process if a receiver is named; return what sends the last of them before the end.

    OpenTelemetry reads its own variables (``OTEL_…``) for the rest. Raises ``Misconfigured`` when it is not installed.
    """
    global _tracer  # noqa: PLW0603 - like the configuration of the log: one of the process
    named = next((name for name in ENDPOINTS if environ.get(name)), "")
    if not named:
        return _nothing
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise Misconfigured(f"{named}: traces need more packages: install certctl[tracing], or unset it") from error
    version = metadata.version("certctl")
    provider = TracerProvider(resource=Resource.create({"service.name": service, "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("certctl", version)
    return provider.shutdown


def _nothing() -> None:
    """Stand for the end of traces that are off."""


@contextmanager
def span(name: str, parent: str = "", **attributes: str) -> Iterator[None]:
    """Trace the block as a step of ``parent``, by default of the one around it, or as the first of a new trace."""
    if _tracer is None:
        yield
        return
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - is there when traces are on

    context = _context(parent)
    with _tracer.start_as_current_span(
        name, context, attributes=_named(attributes), record_exception=False, set_status_on_exception=False
    ) as current_one:
        try:
            yield
        except Exception as error:
            current_one.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


@contextmanager
def rejoined(parent: str) -> Iterator[None]:
    """Trace the block in the trace of ``parent``, if it is not done there anyway."""
    if _tracer is None or not parent or _trace_id(current()) == _trace_id(parent):
        yield
        return
    with span("continued", parent):
        yield


def _trace_id(traceparent: str) -> str:
    """Return the second part (W3C Trace Context, section 3.2.2)."""
    return traceparent[3:35]


def is_on() -> bool:
    """Say whether anything is traced."""
    return _tracer is not None


def note(*, failed: bool = False, **attributes: str) -> None:
    """Say something about the step that is being traced."""
    if _tracer is None:
        return
    from opentelemetry.trace import StatusCode, get_current_span  # noqa: PLC0415 - is there when traces are on

    current_one = get_current_span()
    current_one.set_attributes(_named(attributes))
    if failed:
        current_one.set_status(StatusCode.ERROR)


def measured(name: str, ms: float, parent: str = "", *, before_ms: float = 0.0) -> None:
    """Add a step that took so long and ended ``before_ms`` ago."""
    if _tracer is None:
        return
    ended = time.time_ns() - int(before_ms * _NS_PER_MS)
    started = ended - int(ms * _NS_PER_MS)
    _tracer.start_span(name, _context(parent), start_time=started).end(ended)


def current() -> str:
    """Return the step that is being traced as a ``traceparent``; empty when there is none."""
    if _tracer is None:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(HEADER, "")


def _context(parent: str) -> Context | None:
    """Return the context of a ``traceparent``; None, which means the present one, when it is empty."""
    if not parent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    return TraceContextTextMapPropagator().extract({HEADER: parent})


def _named(attributes: Mapping[str, str]) -> dict[str, str]:
    return {f"certctl.{name}": value for name, value in attributes.items()}
