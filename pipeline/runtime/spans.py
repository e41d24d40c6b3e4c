"""OpenTelemetry spans for an epoch and its stages, with links to the traces of its events; for those who want them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from pipeline.epochs.tracing import trace_of
from pipeline.messages import Record
from pipeline.settings import SettingsError

MOST_LINKS = 128


class Spans(Protocol):
    """What the loop tells of an epoch: that it begins, its stages, that it is committed, or given up.

    The next one may begin before one is committed; a stage may be another thread's.
    """

    def begin(self, epoch: int, records: Sequence[Record]) -> None:
        """An epoch begins."""
        ...

    def stage(self, epoch: int, name: str) -> AbstractContextManager[None]:
        """Within the epoch."""
        ...

    def end(self, epoch: int, lists: int) -> None:
        """It is committed, with so many lists."""
        ...

    def doubt(self) -> None:
        """Those that have begun and not ended are given up."""
        ...


class NoSpans:
    """Nobody wants to know."""

    def begin(self, epoch: int, records: Sequence[Record]) -> None:
        """Nothing."""

    def stage(self, epoch: int, name: str) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def end(self, epoch: int, lists: int) -> None:
        """Nothing."""

    def doubt(self) -> None:
        """Nothing."""


class OpenTelemetrySpans:
    """By the tracer provider that OTEL_… variables set up, or the one given."""

    def __init__(self, provider: Any = None) -> None:
        """Raises SettingsError where OpenTelemetry is not installed."""
        try:
            from opentelemetry import trace
        except ImportError:
            raise SettingsError("metrics.tracing: needs OpenTelemetry: pip install '.[tracing]'") from None
        self._trace = trace
        self._tracer = (provider or _provider()).get_tracer("headrace")
        self._begun: dict[int, Any] = {}

    def begin(self, epoch: int, records: Sequence[Record]) -> None:
        """A span of its own, not a child of any event's: it has many, and links to them."""
        traces = dict.fromkeys(found for record in records if (found := trace_of(record.headers)) is not None)
        links = [self._trace.Link(self._context(one)) for one in list(traces)[:MOST_LINKS]]
        told = {"headrace.epoch": epoch, "headrace.records": len(records)}
        self._begun[epoch] = self._tracer.start_span("headrace.epoch", links=links, attributes=told)

    @contextmanager
    def stage(self, epoch: int, name: str) -> Iterator[None]:
        """A child of the epoch's."""
        within = self._trace.set_span_in_context(self._begun[epoch])
        with self._tracer.start_as_current_span(f"headrace.{name}", context=within):
            yield

    def end(self, epoch: int, lists: int) -> None:
        """The epoch's span ends."""
        span = self._begun.pop(epoch)
        span.set_attribute("headrace.lists", lists)
        span.end()

    def doubt(self) -> None:
        """Spans that have not ended do, with an error."""
        for span in self._begun.values():
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, "in doubt: recovered from the log"))
            span.end()
        self._begun.clear()

    def _context(self, traceparent: bytes) -> Any:
        _, trace_id, span_id, flags = traceparent.decode().split("-")
        told = self._trace.TraceFlags(int(flags, 16))
        return self._trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=told)


def _provider() -> Any:
    """The one that is set up already, as by opentelemetry-instrument, or one that exports by OTLP over HTTP."""
    from opentelemetry import trace

    given = trace.get_tracer_provider()
    if type(given).__name__ != "ProxyTracerProvider":
        return given
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "headrace"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider
