"""What a server counts, for Prometheus, and the traces that it sends where the environment asks for them."""

import os
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from astra_api.sandbox.v1 import sandbox_pb2 as pb

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 300)


class Metrics:
    """The counts of one server. Outcomes of calls: `result`, a ToolError's kind, or the status code of a failure."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kinds = ("result", *pb.ToolError.Kind.keys()[1:])
        calls = self._counter("calls", "Calls answered, by outcome", "outcome")
        self._outcomes = {kind: calls.labels(kind) for kind in kinds}
        self._outcome = calls
        self._call_seconds = self._histogram("call_seconds", "From a call's arrival to its answer")
        self._open_seconds = self._histogram("open_seconds", "From a request for sessions to its answer")
        self.opened = self._counter("sessions_opened", "Sessions opened")
        self.replayed = self._counter("calls_replayed", "Calls run again in a fresh process of their session")
        self._refused = self._counter("opens_refused", "Requests for sessions refused, by status code", "code")
        self._ended = self._counter("processes_ended", "Session processes ended for what they used", "resource")
        self._tracer = _tracer()

    def gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A number that is asked for when it is read."""
        Gauge(f"astra_sandbox_{name}", meaning, registry=self.registry).set_function(value)

    def answered(self, session: str, tool: str, response: pb.CallToolResponse, seconds: float) -> None:
        """One call has its outcome."""
        kind = pb.ToolError.Kind.Name(response.error.kind) if response.HasField("error") else "result"
        self._outcomes[kind].inc()
        self._call_seconds.observe(seconds)
        if self._tracer is not None:
            self._span("call", seconds, session=session, call=response.call_id, tool=tool[:100], outcome=kind)

    def failed(self, code: str) -> None:
        """A call got a status code instead of an outcome."""
        self._outcome.labels(code).inc()

    def opened_sessions(self, digest: str, count: int, seconds: float) -> None:
        """A group was opened."""
        self.opened.inc(count)
        self._open_seconds.observe(seconds)
        if self._tracer is not None:
            self._span("open", seconds, digest=digest, count=count)

    def refused(self, code: str) -> None:
        """A request for sessions was answered with a status code."""
        self._refused.labels(code).inc()

    def ended(self, resource: str) -> None:
        """A session's process was ended for its use of memory or disk."""
        self._ended.labels(resource).inc()

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Answers scrapes on a port of their own; returns what ends that. Raises OSError."""
        server, thread = start_http_server(port, host, self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def close(self) -> None:
        """Sends the traces that are still here."""
        if self._tracer is not None:
            from opentelemetry import trace

            trace.get_tracer_provider().shutdown()  # type: ignore[attr-defined]

    def _span(self, name: str, seconds: float, **attributes: Any) -> None:
        end = time.time_ns()
        named = {f"astra.{key}": value for key, value in attributes.items()}
        assert self._tracer is not None
        span = self._tracer.start_span(f"astra.sandbox.{name}", start_time=end - int(seconds * 1e9), attributes=named)
        span.end(end)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"astra_sandbox_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(f"astra_sandbox_{name}", meaning, registry=self.registry, buckets=_SECONDS)


def _tracer() -> Any:
    """An OpenTelemetry tracer where OTEL_EXPORTER_OTLP_ENDPOINT asks for one; needs the extra [tracing]."""
    asked = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not any(os.environ.get(name) for name in asked):
        return None
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", "astra-sandbox")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return trace.get_tracer("astra_sandbox")
