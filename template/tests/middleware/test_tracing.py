"""Tracing: one span a request, complete, and its id in the log lines."""

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from typing import Any, Final

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import SpanKind, format_trace_id
from starlette.middleware import Middleware
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware import Own, innermost, stack_options
from app.middleware.core.check import faults
from app.middleware.order import LAYERS

from .conftest import WS, LogLines, ProbeApp, ProbeClient, stack_settings
from .probe import router
from .refusals import Refusal

_REFUSALS: Final[dict[str, Refusal]] = {
    name: module.REFUSAL
    for name in LAYERS
    if name != "tracing"
    if hasattr(module := import_module(f".test_{name}", __package__), "REFUSAL")
}
_CONTRIB: Final = "opentelemetry.instrumentation.asgi"
_TRACE: Final = "4bf92f35" * 4
_TRACEPARENT: Final = {"traceparent": f"00-{_TRACE}-b7ad6b7169203331-01"}


class Traced:
    """Builds clients of apps whose spans end here, with nothing of the process changed."""

    def __init__(self, probe_client: ProbeClient) -> None:
        self._start = probe_client
        self._exporter = InMemorySpanExporter()

    def client(
        self,
        *own: Own,
        sampler: Sampler | None = None,
        base_url: str = "http://localhost",
        client_host: str = "127.0.0.1",
        **settings: Any,
    ) -> TestClient:
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        options: Any = stack_options(stack_settings(**settings), own)
        options["telemetry"]["tracing"] = True
        options["telemetry"]["tracer_provider"] = provider
        app = FastAPI(**options)
        app.include_router(router)
        return self._start(app=app, base_url=base_url, client_host=client_host)

    def forget(self) -> None:
        self._exporter.clear()

    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def server_span(self) -> tuple[ReadableSpan, Mapping[str, Any]]:
        """Return the one span and its attributes."""
        (span,) = self.spans()
        assert span.kind is SpanKind.SERVER
        return span, span.attributes or {}


@pytest.fixture
def traced(probe_client: ProbeClient) -> Traced:
    return Traced(probe_client)


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/probe/items/7", "/probe/items/{item_id}", 200),
        ("/probe/items/x", "/probe/items/{item_id}", 422),
        ("/probe/boom", "/probe/boom", 500),
        ("/probe/stream", "/probe/stream", 200),
        ("/nowhere", None, 404),
    ],
)
def test_a_request_is_one_span_with_route_and_status(
    path: str, route: str | None, status: int, traced: Traced
) -> None:
    traced.client(client_host="192.0.2.7").get(path)

    span, attributes = traced.server_span()
    assert span.name == (f"GET {route}" if route else "GET")
    assert attributes.get("http.route") == route
    assert attributes["http.response.status_code"] == status
    assert attributes["client.address"] == "192.0.2.7"
    assert attributes["url.scheme"] == "http"


class Proxied:
    """A layer that corrects client and scheme, as one for proxies does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope["client"] = ("198.51.100.1", 0)
            scope["scheme"] = "https" if scope["type"] == "http" else "wss"
        await self.app(scope, receive, send)


@pytest.mark.parametrize("path", ["/probe/ok", "/probe/boom", "/probe/broken-stream"])
def test_the_span_has_what_a_proxy_reported(path: str, traced: Traced) -> None:
    traced.client(innermost(Middleware(Proxied))).get(path)

    _, attributes = traced.server_span()
    assert attributes["client.address"] == "198.51.100.1"
    assert attributes["url.scheme"] == "https"


@pytest.mark.skipif("proxy_headers" not in LAYERS, reason="no proxy is believed")
def test_the_span_has_what_a_trusted_proxy_reported(traced: Traced) -> None:
    forwarded = {"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "https"}

    traced.client().get("/probe/ok", headers=forwarded)

    _, attributes = traced.server_span()
    assert attributes["client.address"] == "198.51.100.1"
    assert attributes["url.scheme"] == "https"


def test_a_websocket_is_one_span(traced: Traced) -> None:
    client = traced.client(innermost(Middleware(Proxied)))
    with client.websocket_connect(WS) as websocket:
        websocket.send_text("hi")
        websocket.receive_text()

    span, attributes = traced.server_span()
    assert span.name == "WS /probe/ws"
    assert attributes["client.address"] == "198.51.100.1"
    assert attributes["url.scheme"] == "wss"


def test_a_trace_is_continued(traced: Traced) -> None:
    traced.client().get("/probe/ok", headers=_TRACEPARENT)

    span, _ = traced.server_span()
    assert span.context is not None
    assert format_trace_id(span.context.trace_id) == _TRACE


@pytest.mark.parametrize("name", _REFUSALS)
def test_a_refusal_is_traced(name: str, traced: Traced, log_lines: LogLines) -> None:
    refusal = _REFUSALS[name]
    client = traced.client(
        base_url=refusal.base_url, client_host=refusal.client_host, **refusal.settings
    )
    if refusal.prepare is not None:
        refusal.prepare(client)
    traced.forget()

    client.request(refusal.method, refusal.path, headers=dict(refusal.headers), **refusal.request)

    _, attributes = traced.server_span()
    assert attributes["http.response.status_code"] == refusal.status
    assert attributes["client.address"]
    assert all("trace_id" in line for line in log_lines() if line["event"] == "request")


@pytest.mark.skipif("error_handler" not in LAYERS, reason="that layer records it")
def test_an_exception_is_recorded_on_the_span(traced: Traced) -> None:
    traced.client().get("/probe/boom")

    span, _ = traced.server_span()
    (event,) = [event for event in span.events if event.name == "exception"]
    assert (event.attributes or {})["exception.type"] == "RuntimeError"


@pytest.mark.skipif("request_id" not in LAYERS, reason="there is no id")
def test_the_span_has_the_id_of_the_request(traced: Traced) -> None:
    response = traced.client().get("/probe/ok")

    _, attributes = traced.server_span()
    assert attributes["request.id"] == response.headers["x-request-id"]


class Chatty:
    """A layer that logs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            logging.getLogger("mine").info("hello")
        await self.app(scope, receive, send)


def test_every_log_line_of_the_request_carries_the_trace_id(
    traced: Traced, log_lines: LogLines
) -> None:
    traced.client(innermost(Middleware(Chatty))).get("/probe/ok", headers=_TRACEPARENT)

    assert next(line for line in log_lines() if line["event"] == "hello")["trace_id"] == _TRACE


@pytest.mark.skipif("access_log" not in LAYERS, reason="no line is written")
def test_the_line_of_a_websocket_carries_the_trace_id(traced: Traced, log_lines: LogLines) -> None:
    client = traced.client()
    with client.websocket_connect(WS, headers=_TRACEPARENT) as websocket:
        websocket.send_text("hi")
        websocket.receive_text()

    (line,) = [line for line in log_lines() if line["event"] == "request"]
    assert line["trace_id"] == _TRACE


def test_a_line_outside_of_a_request_has_none(traced: Traced, log_lines: LogLines) -> None:
    traced.client().get("/probe/ok")

    logging.getLogger("mine").info("alone")

    assert "trace_id" not in next(line for line in log_lines() if line["event"] == "alone")


def test_an_unsampled_request_leaves_nothing(traced: Traced, log_lines: LogLines) -> None:
    client = traced.client(innermost(Middleware(Chatty)), sampler=ALWAYS_OFF)

    assert client.get("/probe/ok").status_code == 200

    assert not traced.spans()
    assert all("trace_id" not in line for line in log_lines())


@pytest.mark.parametrize(
    "layer",
    [
        OpenTelemetryMiddleware,
        type("OpenTelemetryMiddleware", (Proxied,), {"__module__": _CONTRIB}),
    ],
)
def test_a_second_instrumentation_is_refused(layer: Any, probe_app: ProbeApp) -> None:
    """It would make a second span of each request."""
    app = probe_app(own=[innermost(Middleware(layer))])

    assert "does the job of the layer tracing." in faults(app)[0]


def test_spans_of_a_provider_of_yours_are_exported_before_the_stop() -> None:
    """A server that ends by a signal never comes to the flush at exit."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    options: Any = stack_options(stack_settings())
    options["telemetry"] |= {"tracing": True, "tracer_provider": provider}
    app = FastAPI(**options)

    with TestClient(app, base_url="http://localhost") as client:
        client.get("/nowhere")

    assert len(exporter.get_finished_spans()) == 1


def test_a_provider_that_fails_to_flush_does_not_fail_the_stop(log_lines: LogLines) -> None:
    class Failing(TracerProvider):
        def force_flush(self, timeout_millis: int | None = None) -> bool:
            del timeout_millis
            raise OSError

    options: Any = stack_options(stack_settings())
    options["telemetry"] |= {"tracing": True, "tracer_provider": Failing(shutdown_on_exit=False)}

    with TestClient(FastAPI(**options)):
        pass

    assert "spans were lost at the stop" in [line["event"] for line in log_lines()]


def test_nothing_is_traced_until_spans_have_a_place_to_go() -> None:
    options: Any = stack_options(stack_settings())
    telemetry = options["telemetry"]

    assert not telemetry["tracing"]
    assert not telemetry["metrics"]
    assert not telemetry["logs"]


@pytest.mark.parametrize(
    "variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
)
def test_either_variable_gives_spans_a_place_to_go(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:4318")

    options: Any = stack_options(stack_settings())

    assert options["telemetry"]["tracing"]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Receive spans as a collector does: its address, and what came."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any, **__: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


_SERVICE: Final = """
from fastapi import FastAPI
from fastapi.testclient import TestClient
from app.middleware import stack_options
from tests.middleware.conftest import stack_settings

app = FastAPI(**stack_options(stack_settings()))
with TestClient(app, base_url="http://localhost") as client:
    client.get("/nowhere")
"""


def test_the_environment_says_where_spans_go(
    collector: tuple[str, list[ExportTraceServiceRequest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not sent yet is sent when the service stops."""
    address, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders")

    subprocess.run(  # noqa: S603 - the script above
        [sys.executable, "-c", _SERVICE], check=True, capture_output=True
    )

    (request,) = received
    (resource,) = request.resource_spans
    attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert attributes["service.name"] == "orders"
    (span,) = resource.scope_spans[0].spans
    assert span.name == "GET"


@pytest.mark.parametrize(
    ("variable", "limit"),
    [
        (None, 2048),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", 100),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", 3000),
    ],
)
def test_what_a_client_sends_fills_no_span(
    variable: str | None,
    limit: int,
    collector: tuple[str, list[ExportTraceServiceRequest]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spans wait in memory until they are sent, and a batch that is too large is lost."""
    address, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    if variable is not None:
        monkeypatch.setenv(variable, str(limit))
    long = "a" * 5000
    asked = f'client.get("/{long}?{long}", headers={{"Host": "{long}"}})'
    code = _SERVICE.replace('client.get("/nowhere")', asked)

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # noqa: S603

    (span,) = received[0].resource_spans[0].scope_spans[0].spans
    lengths = {item.key: len(item.value.string_value) for item in span.attributes}
    assert {lengths[name] for name in ("server.address", "url.path", "url.query")} == {limit}
    assert max(lengths.values()) == limit
