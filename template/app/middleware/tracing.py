"""Tracing: completes the span of each request, and adds its trace ID to the log lines."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import (
    ProxyTracerProvider,
    Span,
    format_trace_id,
    get_current_span,
    get_tracer_provider,
)
from opentelemetry.util.types import AttributeValue
from starlette.types import Message, Receive, Scope, Send

from .core.exchange import Decision, Exchange, Place
from .core.layer import Layer
from .core.logger import layer_logger
from .log import begin_fields

_logger: Final = layer_logger(__name__)

_LATE: Final = (
    "No spans are made: the tracer provider was set after the app was created."
    " Set the tracer provider before create_app(), at the top of app/main.py."
)
_STOPPED: Final = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})
# Clients choose the host, the path and the query. Events have a limit of their own: a traceback is
# longer, and its end is what counts.
_LENGTH: Final = "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"
_LENGTHS: Final = frozenset({_LENGTH, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"})
_LONGEST_TEXT: Final = "2048"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class TracingMiddleware(Layer):
    """
    Add the trace ID to the log lines, and add attributes from inner layers to the span.

    FastAPI starts the span outside the whole stack, before a layer has read the client behind a
    proxy. When the response starts, the span gets `client.address`, `url.scheme` and, if a layer
    gave the request an ID, `request.id`; that of a websocket when it ends. Requests that aren't
    sampled pass at once, and so do all requests without an exporter.
    """

    once = True

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        telemetry = getattr(scope["app"], "_telemetry", {})
        if _is_provided() and not telemetry.get("tracing"):
            _logger.warning(_LATE)
        provider = telemetry.get("tracer_provider") or get_tracer_provider()

        async def flush_and_send(message: Message) -> None:
            # A provider flushes at exit, which uvicorn skips: it ends itself by the signal. FastAPI
            # flushes only what it has configured.
            if message["type"] in _STOPPED:
                await asyncio.to_thread(_flush, provider)
            await send(message)

        await super().lifespan(scope, receive, flush_and_send)

    def enter(self, exchange: Exchange) -> Decision:
        # FastAPI's mark of a traced request, cheaper to look up than the current span.
        traced = "fastapi.telemetry" in exchange.scope and get_current_span().is_recording()
        return self._describe if traced else None

    async def _describe(self, exchange: Exchange, place: Place) -> None:
        span = get_current_span()
        scope = exchange.scope
        scheme = scope["scheme"]

        def describe(_: Exchange, message: Message) -> None:
            if message["type"] == "http.response.start":
                _describe(span, scope, scheme)

        exchange.at_head(describe)
        end_fields = begin_fields(trace_id=format_trace_id(span.get_span_context().trace_id))
        try:
            await place.proceed()
        finally:
            if span.is_recording():
                _describe(span, scope, scheme)
        # After an exception the ID stays bound, so that the server's log line has it.
        end_fields()


def telemetry() -> TelemetryConfig:
    """
    Return FastAPI's telemetry settings: spans, if there is an exporter, and nothing else.

    FastAPI's metrics and logs stay off: the log has the trace ID already, and messages of
    exceptions must not be exported. Spans of dependencies and serialization would multiply what
    is exported for each request. The attributes of spans have at most 2048 characters, unless the
    environment has a limit.
    """
    exported = any(os.environ.get(name) for name in _ENDPOINTS)
    provided = _is_provided()
    if exported and not provided and _LENGTHS.isdisjoint(os.environ):
        os.environ[_LENGTH] = _LONGEST_TEXT
    return TelemetryConfig(
        tracing=exported or provided,
        metrics=False,
        logs=False,
        operation_spans=False,
        # A provider that exists has its exporters; one more would export each span twice.
        auto_configure=exported and not provided,
    )


def _flush(provider: Any) -> None:
    """Export waiting spans; only the SDK's provider has any."""
    if not hasattr(provider, "force_flush"):
        return
    try:
        provider.force_flush()
    except Exception:
        _logger.exception("spans were lost at the stop")


def _is_provided() -> bool:
    return not isinstance(get_tracer_provider(), ProxyTracerProvider)


def _describe(span: Span, scope: Scope, scheme: str) -> None:
    client = scope.get("client")
    if client:
        span.set_attribute("client.address", client[0])
    request_id = scope.get("state", {}).get("request_id")
    if request_id is not None:
        span.set_attribute("request.id", request_id)
    if scope["scheme"] != scheme:
        _keep(span, {"url.scheme": scope["scheme"]})


def _keep(span: Span, corrected: Mapping[str, AttributeValue]) -> None:
    """Set attributes that FastAPI would overwrite with its first values when the span ends."""
    set_attributes = span.set_attributes

    def set_others(attributes: Mapping[str, AttributeValue]) -> None:
        set_attributes({**attributes, **corrected})

    span.set_attributes = set_others  # type: ignore[method-assign]
