"""Agents and trackers: spans and log lines arrive once, unhandled exceptions with their stack."""

import json
from collections.abc import Mapping
from functools import partial
from signal import SIGINT, SIGTERM
from typing import Any
from urllib.parse import parse_qs, urlsplit

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.serving import wait_until

from .bench import (
    UVICORN,
    Bench,
    Collector,
    Received,
    assert_layers_work,
    assert_logged_once,
    case,
    collecting,
)

agent = partial(case, kind="agents and trackers")


def _sentry_items(collector: Collector, key: str) -> list[dict[str, Any]]:
    lines = [line for item in collector.at("/envelope/") for line in item.text().splitlines()]
    parsed = [json.loads(line) for line in lines if line.startswith("{")]
    return [item for item in parsed if key in item]


def _assert_sentry_sees_once(bench: Bench, *, handled: bool, options: str, own: str = "") -> None:
    with collecting() as collector:
        dsn = f"http://public@127.0.0.1:{collector.port}/1"
        before = f"""
import sentry_sdk
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.integrations.logging import LoggingIntegration
from starlette.middleware import Middleware

from .middleware import inside, outermost

sentry_sdk.init({dsn!r}, enable_logs=True, {options})
"""
        bench.write_main(before, own)
        with bench.serving() as server:
            assert_layers_work(server)
            wait_until(lambda: bool(_sentry_items(collector, "exception")))
            server.stop(SIGINT)  # logs are sent at exit, which SIGTERM skips
        logs = [log["body"] for item in _sentry_items(collector, "items") for log in item["items"]]
        assert_logged_once(logs, {"of a library": 1, "unhandled exception": 1})
        (event,) = _sentry_items(collector, "exception")
        (value,) = event["exception"]["values"]
        assert value["type"] == "RuntimeError"
        assert value["stacktrace"]["frames"][-1]["function"] == "boom"
        assert value["mechanism"].get("handled", True) is handled


@agent("Sentry", "sentry-sdk", sample=True)
def sentry(bench: Bench) -> None:
    _assert_sentry_sees_once(bench, handled=True, options="")


@agent(
    "Sentry, `LoggingIntegration(event_level=None)`",
    "sentry-sdk",
    setup='`own=[inside("error_handler", Middleware(SentryAsgiMiddleware))]`',
)
def sentry_without_logs(bench: Bench) -> None:
    _assert_sentry_sees_once(
        bench,
        handled=False,
        options="integrations=[LoggingIntegration(event_level=None)]",
        own='inside("error_handler", Middleware(SentryAsgiMiddleware))',
    )


@agent(
    "Sentry's ASGI class, outermost",
    "sentry-sdk",
    setup="`own=[outermost(Middleware(SentryAsgiMiddleware))]`",
)
def sentry_outermost(bench: Bench) -> None:
    _assert_sentry_sees_once(
        bench,
        handled=True,
        options="auto_enabling_integrations=False",
        own="outermost(Middleware(SentryAsgiMiddleware))",
    )


def _server_spans(collector: Collector, path: str = "/v1/traces") -> list[Any]:
    return [
        span
        for item in collector.received
        if item.path == path
        for resource in ExportTraceServiceRequest.FromString(item.body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.kind == span.SPAN_KIND_SERVER
    ]


def _log_bodies(collector: Collector) -> list[str]:
    return [
        record.body.string_value
        for item in collector.at("/v1/logs")
        for resource in ExportLogsServiceRequest.FromString(item.body).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def _otlp(collector: Collector) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
        "OTEL_SERVICE_NAME": "bench",
    }


def _assert_spans_once(
    bench: Bench,
    collector: Collector,
    environment: Mapping[str, str],
    *command: str,
    stop: int = SIGTERM,
) -> None:
    with bench.serving(*command, **environment) as server:
        assert_layers_work(server)
        server.stop(stop)  # which exports the spans that wait in the batch
        assert_logged_once(server.log().splitlines())
    spans = _server_spans(collector)
    assert len(spans) == 3, [span.name for span in spans]
    (failed,) = (span for span in spans if span.status.code == span.status.STATUS_CODE_ERROR)
    events = [event for event in failed.events if event.name == "exception"]
    attributes = {
        item.key: item.value.string_value for event in events for item in event.attributes
    }
    assert attributes.get("exception.type") == "RuntimeError", failed
    assert "in boom" in attributes["exception.stacktrace"]


_OTEL = (
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-instrumentation-fastapi",
)


@agent(
    "`opentelemetry-instrument`",
    *_OTEL,
    # As `opentelemetry-bootstrap` says.
    "opentelemetry-instrumentation-logging",
    "opentelemetry-instrumentation-structlog",
    setup="`OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=fastapi`",
    sample=True,
)
def opentelemetry_instrument(bench: Bench) -> None:
    bench.write_main()
    command = ("opentelemetry-instrument", *UVICORN)
    with collecting(lambda _: b"") as collector:
        environment = {
            **_otlp(collector),
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi",
        }
        # Logs are exported at exit, which SIGTERM skips.
        _assert_spans_once(bench, collector, environment, *command, stop=SIGINT)
        assert_logged_once(_log_bodies(collector))
        with bench.starting(*command, **_otlp(collector)) as server:
            assert server.process.wait(60) == 3
            assert "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=fastapi" in server.log()


_PROVIDER = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
"""


@agent("OpenTelemetry, a provider in `main.py`", "opentelemetry-sdk")
def opentelemetry_provider(bench: Bench) -> None:
    bench.write_main(before=_PROVIDER)
    with collecting(lambda _: b"") as collector:
        _assert_spans_once(bench, collector, _otlp(collector))


@agent(
    "OpenTelemetry, a provider after `create_app()`",
    "opentelemetry-sdk",
    setup="set the provider before `create_app()`; after it, a warning at start says so",
)
def opentelemetry_late_provider(bench: Bench) -> None:
    bench.write_main(after=_PROVIDER)
    with bench.serving() as server:
        assert_layers_work(server)
        assert "Set the tracer provider before" in server.log()


@agent(
    "Logfire",
    "logfire",
    setup="`logfire.configure()` before `create_app()`, no `instrument_fastapi`",
)
def logfire(bench: Bench) -> None:
    with collecting(lambda _: b"") as collector:
        bench.write_main("\nimport logfire\n\nlogfire.configure(send_to_logfire=False)\n")
        _assert_spans_once(bench, collector, _otlp(collector))


@agent(
    "Datadog, `ddtrace-run`",
    "ddtrace",
    "msgpack",
    setup="`DD_ERROR_TRACKING_HANDLED_ERRORS=user`, for the stack of an unhandled exception;"
    " `DD_TRACE_STRUCTLOG_ENABLED=false`, and a layer inside `request_id` that calls"
    " `bind(**tracer.get_log_correlation_context())`, for the trace ID in access lines",
)
def ddtrace(bench: Bench) -> None:
    before = """
from ddtrace.trace import tracer
from starlette.middleware import Middleware

from .middleware import Exchange, Layer, bind, inside


class TraceIds(Layer):
    def enter(self, exchange: Exchange) -> None:
        bind(**tracer.get_log_correlation_context())
"""
    bench.write_main(before, 'inside("request_id", Middleware(TraceIds))')
    with collecting() as collector:
        environment = {
            "DD_TRACE_AGENT_URL": collector.url,
            "DD_TRACE_API_VERSION": "v0.4",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_ERROR_TRACKING_HANDLED_ERRORS": "user",
            "DD_TRACE_STRUCTLOG_ENABLED": "false",
        }
        with bench.serving("ddtrace-run", *UVICORN, **environment) as server:
            assert_layers_work(server)
            collector.wait_for("/traces", lambda item: b"in boom" in item.body)
            server.stop()
        lines = server.log().splitlines()
        assert_logged_once(lines)
        requests_logged = [json.loads(line) for line in lines if '"event":"request"' in line]
        traced = {line["dd.trace_id"] for line in requests_logged}
        assert len(traced - {"0"}) == 3, traced
        spans = [span for item in collector.at("/traces") for span in _unpacked(bench, item)]
        requests = [span for span in spans if span["meta"].get("span.kind") == "server"]
        assert len(requests) == 3, spans
        (failed,) = (span for span in requests if "in boom" in json.dumps(span))
        assert failed["error"] == 1


def _unpacked(bench: Bench, item: Received) -> list[dict[str, Any]]:
    path = bench.service / "trace.msgpack"
    path.write_bytes(item.body)
    code = (
        "import json, msgpack, sys; "
        "print(json.dumps(msgpack.unpackb(open(sys.argv[1], 'rb').read(), strict_map_key=False),"
        " default=repr))"
    )
    done = bench.run("python", "-c", code, str(path))
    return [span for trace in json.loads(done.stdout) for span in trace]


@agent(
    "Elastic APM",
    "elastic-apm",
    setup='`own=[inside("error_handler", Middleware(ElasticAPM, ...))]`',
)
def elastic(bench: Bench) -> None:
    before = """
from elasticapm.contrib.starlette import ElasticAPM, make_apm_client
from starlette.middleware import Middleware

from .middleware import inside

apm = make_apm_client({"SERVICE_NAME": "bench", "API_REQUEST_TIME": "1s"})
"""
    bench.write_main(before, 'inside("error_handler", Middleware(ElasticAPM, client=apm))')
    with (
        collecting() as collector,
        bench.serving(
            ELASTIC_APM_SERVER_URL=collector.url, ELASTIC_APM_CENTRAL_CONFIG="false"
        ) as server,
    ):
        assert_layers_work(server)
        collector.wait_for("/intake/v2/events", lambda item: '"error"' in item.text())
        server.stop()
        lines = [
            json.loads(line)
            for item in collector.at("/intake/v2/events")
            for line in item.text().splitlines()
        ]
    assert len([line for line in lines if "transaction" in line]) == 3
    (error,) = (line["error"] for line in lines if "error" in line)
    assert error["exception"]["stacktrace"][-1]["function"] == "boom"


@agent("New Relic, `newrelic-admin run-program`", "newrelic")
def newrelic(bench: Bench) -> None:
    replies = {
        "preconnect": {"redirect_host": "127.0.0.1"},
        "connect": {
            "agent_run_id": "bench",
            "collect_traces": True,
            "collect_errors": True,
            "collect_error_events": True,
            "collect_analytics_events": True,
            "event_harvest_config": {
                "report_period_ms": 60_000,
                "harvest_limits": {"analytic_event_data": 100, "log_event_data": 100},
            },
        },
    }

    def answer(item: Received) -> bytes:
        return json.dumps({"return_value": replies.get(_method(item))}).encode()

    bench.write_main()
    with collecting(answer, bench.certificate) as collector:
        environment = {
            "NEW_RELIC_APP_NAME": "bench",
            "NEW_RELIC_CA_BUNDLE_PATH": str(bench.certificate[0]),
            "NEW_RELIC_HOST": "127.0.0.1",
            "NEW_RELIC_LICENSE_KEY": "0" * 40,
            "NEW_RELIC_PORT": str(collector.port),
            "NEW_RELIC_STARTUP_TIMEOUT": "20",
        }
        command = ("newrelic-admin", "run-program", *UVICORN)
        with bench.serving(*command, **environment) as server:
            assert_layers_work(server)
            server.stop(SIGINT)  # the agent reports at exit, which SIGTERM skips
        assert_logged_once(server.log().splitlines())
        (logs,) = (item for item in collector.received if _method(item) == "log_event_data")
        assert_logged_once(event["message"] for event in json.loads(logs.text())[0]["logs"])
        events = [item for item in collector.received if _method(item) == "analytic_event_data"]
        requests = [event for item in events for event in json.loads(item.text())[2]]
        assert len(requests) == 3, requests
        (errors,) = (item for item in collector.received if _method(item) == "error_data")
        assert "in boom" in errors.text()


@agent("Apitally", "apitally[fastapi]")
def apitally(bench: Bench) -> None:
    bench.write_main("\nimport apitally.fastapi\n", after="\n\napitally.fastapi.init(app)\n")
    with collecting() as collector:
        environment = {
            "APITALLY_ENV": "dev",
            "APITALLY_OTLP_ENDPOINT": collector.url,
            "APITALLY_WRITE_TOKEN": f"apt_{'0' * 24}",
            # The layer tracing is on beside it, and exports to nowhere.
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{collector.url}/own",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }
        with bench.serving(**environment) as server:
            assert_layers_work(server)
            server.stop()
            assert '"trace_id"' in server.log()
        for path in ("/v1/traces", "/own/v1/traces"):
            spans = _server_spans(collector, path)
            assert len(spans) == 3, (path, [span.name for span in spans])


@agent(
    "Instana",
    "instana",
    setup=(
        "`app.exception_handlers.pop(fastapi.HTTPException, None)` after `FastAPI(...)`:"
        " the agent's handler has another error format"
    ),
)
def instana(bench: Bench) -> None:
    after = """

import fastapi


@app.get("/forbidden")
async def forbidden() -> None:
    raise fastapi.HTTPException(403)


assert app.exception_handlers.pop(fastapi.HTTPException, None)
"""
    bench.write_main("\nimport instana\n", after=after)
    with bench.serving() as server:
        assert_layers_work(server)
        response = server.request("/forbidden")
        assert response.status == 403
        assert response.headers["content-type"] == "application/problem+json"


def _method(item: Received) -> str:
    return parse_qs(urlsplit(item.path).query).get("method", [""])[0]
