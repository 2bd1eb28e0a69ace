"""The order: the list obeys the rules, and whatever slips around it is refused at start."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import BaseRoute, Mount, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware import Policy, StackSettings, innermost, inside, outermost, outside
from app.middleware.core.check import faults, live_stack
from app.middleware.core.command_line import main
from app.middleware.core.exchange import Exchange, Place
from app.middleware.core.layer import Layer, layers_from
from app.middleware.core.setting_types import Paths
from app.middleware.order import DOUBLES, LAYERS, RULES, TRACKERS, Rule, layer_of
from app.middleware.stack import build_stack

from .conftest import COMMAND, ProbeApp, ProbeClient, stack_settings

FIRST = next(iter(LAYERS))
LAST = list(LAYERS)[-1]

# The settings whose paths must be those of routes.
EXACT = [name for name, field in StackSettings.model_fields.items() if field.annotation == Paths]

swapped: Any = inside


class Mine:
    """A layer of the user's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def making(app: ASGIApp) -> ASGIApp:
    """Return a layer that is a function."""

    async def layer(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return layer


def named(name: str, module: str = __name__) -> Any:
    """Make another class of layer."""
    return type(name, (Mine,), {"__module__": module})


def names(app: FastAPI) -> list[str]:
    return [layer_of(cls) or cls.__name__ for cls in live_stack(app)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.outside}-{rule.inside}")
def test_the_list_obeys_the_rule(rule: Rule) -> None:
    stack = [layer_of(item.cls) for item in build_stack(stack_settings())]

    assert stack.index(rule.outside) < stack.index(rule.inside), rule.because


def test_the_list_holds_each_layer_once() -> None:
    stack = [layer_of(item.cls) for item in build_stack(stack_settings())]

    assert [name for name in stack if name] == list(LAYERS)


def test_the_service_starts() -> None:
    """The stack of the service itself, with layers of your own, is in order."""
    from app.main import app  # noqa: PLC0415 - the one place where the tests need the service

    assert faults(app) == []


def test_the_framework_stands_around_the_list(probe_app: ProbeApp) -> None:
    stack = names(probe_app())

    assert stack[0] == "ServerErrorMiddleware"
    assert stack.index("OrderCheck") < stack.index(FIRST)
    assert stack.index(LAST) < stack.index("ExceptionMiddleware")


def test_a_late_layer_is_refused(probe_app: ProbeApp) -> None:
    """The last one added is the outermost, whatever tutorials say."""
    app = probe_app()
    app.add_middleware(Mine)

    (fault,) = faults(app)

    assert "Mine was added outside the middleware stack" in fault


def test_a_decorator_is_refused(probe_app: ProbeApp) -> None:
    app = probe_app()

    async def mine(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    mine.__module__ = "app.main"
    app.middleware("http")(mine)

    (fault,) = faults(app)

    assert "mine was added outside the middleware stack by @app.middleware" in fault
    assert "own=[innermost(Middleware(BaseHTTPMiddleware, dispatch=mine))]" in fault
    assert "package" not in fault


def test_what_a_package_adds_by_itself_can_be_in_a_mounted_app(probe_app: ProbeApp) -> None:
    """Nobody can give it a place in the list: the package adds it again."""
    app, other, outer = probe_app(), FastAPI(), probe_app()
    for each in (app, other):
        each.add_middleware(Mine)
    outer.mount("/", other)

    (fault,) = faults(app)

    assert 'mount that one in yours: app.mount("/", ...)' in fault
    assert faults(outer) == []


def test_an_app_that_lost_its_layers_is_refused(probe_app: ProbeApp) -> None:
    """An app around the old one serves, or one that was built anew."""
    outer = FastAPI(middleware=[Middleware(Mine)])
    outer.mount("/", probe_app())

    for app in (outer, Mine(outer), Mine(Router())):
        (fault,) = faults(app)
        assert "The app that is served has no checked layers" in fault


def test_an_app_is_found_inside_of_a_wrapper(probe_app: ProbeApp) -> None:
    app = Mine(probe_app())

    assert faults(app) == []
    assert live_stack(app)[:2] == [Mine, ServerErrorMiddleware]


@pytest.mark.parametrize(
    "name",
    [*list(DOUBLES)[:1], *(sorted(TRACKERS)[:1] if "error_handler" in LAYERS else ())],
)
def test_a_wrapper_that_has_a_place_in_the_list_is_refused(
    name: str,
    probe_app: ProbeApp,
    probe_client: ProbeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Around the app, a tracker sees no exception, and a double does the job twice."""
    module, _, short = name.rpartition(".")
    wrapped = named(short, module)(app := probe_app())

    (fault,) = faults(wrapped)
    monkeypatch.setattr("app.main.app", wrapped)

    assert fault.startswith(name)
    with pytest.raises(BaseException, match=short):
        probe_client(app=app)


def test_the_faults_of_mounted_apps_are_found(probe_app: ProbeApp) -> None:
    """A server runs no lifespan of theirs, so nobody else would look."""
    app, admin, hosted, deep = (probe_app(routes={"/nope": Policy()}) for _ in range(4))
    for each, title in ((admin, "Admin"), (hosted, "Hosted"), (deep, "Deep")):
        each.title = title
    admin.add_middleware(Mine)
    router = Router([Mount("/{any}", deep), Mount("/around", Mine(app))])
    app.mount("/plain", Starlette(routes=[Mount("/in", router)]))
    app.mount("/admin", Mine(admin))
    app.mount("/open", FastAPI())
    app.host("admin.localhost", hosted)
    fault = "ROUTES['/nope'] matches no route."

    found = faults(app)

    assert found[0].startswith(fault)
    places = ["/admin", "/admin", "admin.localhost", "/plain/in/{any}"]
    assert [it.partition(": ")[0] for it in found[1:]] == [
        f"In the app mounted at {place}" for place in places
    ]
    assert [fault in it for it in found[1:]] == [False, True, True, True]


def test_layers_of_a_mounted_app_repeat_nothing(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app, mounted = probe_app(), probe_app()
    mounted.title = "Mounted"
    app.mount("/mounted", mounted)

    response = probe_client(app=app).get(
        "/mounted/probe/state", headers={"Origin": "http://a.example"}
    )

    once = ("x-request-id", "server-timing", "x-process-time", "vary")
    assert all(len(response.headers.get_list(name)) <= 1 for name in once)
    varied = response.headers.get("vary", "").split(", ")
    assert len(varied) == len({*varied})
    assert response.json()["request_id"] == response.headers.get("x-request-id")


@pytest.mark.parametrize("vary", ["*", "Origin, Accept-Encoding, Cookie", "authorization"])
def test_no_layer_repeats_a_name_of_vary(vary: str, probe_client: ProbeClient) -> None:
    headers = {"Origin": "http://a.example", "Accept-Encoding": "gzip"}

    response = probe_client().get(f"/probe/headers?name=Vary&value={vary}", headers=headers)

    (found,) = response.headers.get_list("vary")
    names = found.lower().split(", ")
    assert len(names) == len({*names})
    assert ("*" in names) == (names == ["*"])


@pytest.mark.parametrize("double", list(DOUBLES)[:1])
def test_a_double_outside_gets_one_sentence(double: str, probe_app: ProbeApp) -> None:
    module, _, name = double.rpartition(".")
    app = probe_app()
    app.add_middleware(named(name, module))

    (fault,) = faults(app)

    assert f"{double} does the job of the layer {DOUBLES[double]}." in fault


@pytest.mark.parametrize("double", list(DOUBLES)[:1])
def test_a_subclass_of_a_double_is_one(double: str, probe_app: ProbeApp) -> None:
    module, _, name = double.rpartition(".")
    cls: Any = type("Mine", (named(name, module),), {})
    job = f"does the job of the layer {DOUBLES[double]}."
    app = probe_app()
    app.add_middleware(cls)

    for each in (app, probe_app(own=[innermost(Middleware(cls))])):
        assert job in faults(each)[0]


def test_a_layer_of_the_stack_outside_gets_one_sentence(probe_app: ProbeApp) -> None:
    app = probe_app()
    module, _, name = LAYERS[FIRST].cls.rpartition(".")
    app.add_middleware(named(name, module))

    (fault,) = faults(app)

    assert f"does the job of the layer {FIRST}." in fault


@pytest.mark.parametrize(
    "name",
    [
        "apitally.shared.activation.ASGIActivationShim",
        "apitally.shared.asgi.ExceptionRecordingMiddleware",
        "ddtrace.contrib.internal.asgi.middleware.TraceMiddleware",
    ],
)
def test_an_agent_that_observes_is_let_be(name: str, probe_app: ProbeApp) -> None:
    module, _, short = name.rpartition(".")
    app = probe_app()
    app.add_middleware(named(short, module))

    assert faults(app) == []


def test_a_span_beside_those_of_fastapi_is_refused(probe_app: ProbeApp) -> None:
    """Where an agent makes FastAPI leave its own out, the layer tracing completes the agent's."""
    app = probe_app()
    app.add_middleware(named("OpenTelemetryMiddleware", "opentelemetry.instrumentation.asgi"))

    refused = faults(app)
    app._telemetry["exclude"] = lambda _: True  # noqa: SLF001 - as apitally.fastapi does

    assert bool(refused) == ("tracing" in LAYERS)
    assert faults(app) == []


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_tracker_gets_a_place_where_it_sees_the_exceptions_of_layers(
    name: str, probe_app: ProbeApp
) -> None:
    module, _, short = name.rpartition(".")
    app = probe_app()
    app.add_middleware(named(short, module))

    (fault,) = faults(app)

    handles = "error_handler" in LAYERS
    item = Middleware(named(short, module))
    own = swapped("error_handler", item) if handles else innermost(item)
    assert name in fault
    assert ('inside("error_handler"' if handles else "innermost(") in fault
    assert faults(probe_app(own=[own])) == []


class UnitOfWork:
    """A layer that commits what ended without an exception."""

    def __init__(self, app: ASGIApp, *, ended: list[str]) -> None:
        self.app = app
        self.ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except BaseException:
            self.ended.append("rolled back")
            raise
        self.ended.append("committed")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("ok", 200),
        ("boom", 500),
        pytest.param(
            *("slow?seconds=60", 504),
            marks=pytest.mark.skipif("timeout" not in LAYERS, reason="nothing ends it"),
        ),
    ],
)
def test_a_unit_of_work_commits_nothing_that_failed_where_the_sentence_puts_it(
    path: str, status: int, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    ended: list[str] = []
    app = probe_app()
    app.add_middleware(UnitOfWork, ended=ended)
    (fault,) = faults(app)
    is_innermost = "own=[innermost(Middleware(UnitOfWork, ...))]" in fault
    place = innermost if is_innermost else outermost

    client = probe_client(
        own=[place(Middleware(UnitOfWork, ended=ended))], request_timeout=0.2, queue_timeout=0
    )
    ended.clear()  # the start of the service
    response = client.get(f"/probe/{path}")

    assert response.status_code == status
    assert ended == ["committed" if status == 200 else "rolled back"]


def _made() -> type[Mine]:
    class _Hidden(Mine):
        pass

    return _Hidden


Offered = _made()


def test_a_class_is_named_as_its_module_offers_it(probe_app: ProbeApp) -> None:
    app = probe_app()
    app.add_middleware(Offered)

    assert "own=[innermost(Middleware(Offered))]" in faults(app)[0]


def test_an_instrumentor_that_replaces_the_stack_is_refused(probe_app: ProbeApp) -> None:
    app = probe_app()
    app.middleware_stack = Mine(app.build_middleware_stack())

    (fault,) = faults(app)

    assert "Mine was added outside the middleware stack" in fault


def test_a_wrapper_that_hides_the_stack_is_refused(probe_app: ProbeApp) -> None:
    app = probe_app()
    stack = app.build_middleware_stack()

    async def wrapper(scope: Scope, receive: Receive, send: Send) -> None:
        await stack(scope, receive, send)

    app.middleware_stack = wrapper

    assert "<locals>.wrapper was added outside the middleware stack" in faults(app)[0]


@pytest.mark.parametrize("rule", RULES[:1], ids=lambda rule: f"{rule.outside}-{rule.inside}")
def test_a_rearranged_list_is_refused_with_the_reason(rule: Rule, probe_app: ProbeApp) -> None:
    app = probe_app()
    app.user_middleware[1:] = reversed(app.user_middleware[1:])

    assert f"{rule.outside} must run outside {rule.inside}: {rule.because}" in faults(app)


def test_a_doubled_layer_is_refused(probe_app: ProbeApp) -> None:
    app = probe_app()
    app.user_middleware.append(app.user_middleware[1])

    assert f"{FIRST} is in the stack 2 times. Remove all but one." in faults(app)


@pytest.mark.parametrize("double", list(DOUBLES)[:1])
def test_a_foreign_layer_of_the_same_job_is_refused(double: str, probe_app: ProbeApp) -> None:
    module, _, name = double.rpartition(".")
    app = probe_app(own=[innermost(Middleware(named(name, module)))])

    assert f"{double} does the job of the layer {DOUBLES[double]}." in faults(app)[0]


def test_a_fault_stops_the_start(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app()
    app.add_middleware(Mine)

    with pytest.raises(BaseException, match="was added outside the middleware stack"):
        probe_client(app=app)


@pytest.mark.parametrize(("path", "other"), [("/probe/ok/", "/probe/ok"), ("/late", "/late/")])
@pytest.mark.skipif(not EXACT, reason="no setting holds paths")
def test_a_path_that_a_route_has_but_for_the_last_slash_is_refused(
    path: str, other: str, probe_app: ProbeApp
) -> None:
    """Requests for the route would be rejected for ever, those of probes too."""
    for name in EXACT:
        app = probe_app(**{name: [path, "/nowhere"]})
        app.add_api_route("/late/", lambda: None)

        (fault,) = faults(app)
        app.mount("/", FastAPI())

        assert fault.startswith(f"{name.upper()} must hold paths as the routes have them, not ")
        assert fault.endswith(f"'{path}'; write {other}.")
        assert faults(app) == []


@pytest.mark.skipif(not EXACT, reason="no setting holds paths")
def test_the_path_of_a_mount_ends_with_a_slash(probe_app: ProbeApp) -> None:
    """The router redirects requests without it, so the setting would never match."""
    for name in EXACT:
        app = probe_app(**{name: ["/mounted", "/nowhere"]})
        app.mount("/mounted", FastAPI())

        (fault,) = faults(app)
        app.add_api_route("/mounted", lambda: None)

        assert fault.endswith("not '/mounted'; write /mounted/.")
        assert faults(app) == []


@pytest.mark.skipif(not EXACT, reason="no setting holds paths")
def test_a_route_without_a_path_is_no_other_spelling(probe_app: ProbeApp) -> None:
    for name in EXACT:
        app = probe_app(**{name: ["/"]})
        app.host("admin.localhost", FastAPI())
        app.router.routes.append(BaseRoute())

        assert faults(app) == []


@pytest.mark.skipif(not EXACT, reason="no setting holds paths")
def test_a_path_with_the_root_path_of_the_app_is_refused(probe_app: ProbeApp) -> None:
    """Requests reach the routes without it."""
    for name in EXACT:
        app = probe_app(**{name: ["/api/probe/ok", "/api/nowhere"]})
        app.root_path = "/api"

        (fault,) = faults(app)
        app.add_api_route("/api/probe/ok", lambda: None)

        assert fault.startswith(f"{name.upper()} must hold paths as the routes have them below ")
        assert fault.endswith("'/api/probe/ok'; write /probe/ok.")
        assert faults(app) == []


def test_a_path_of_a_layer_has_no_root_path(probe_app: ProbeApp) -> None:
    fields = StackSettings.model_fields
    names = [name for name in ("metrics_path", "readiness_path") if name in fields]
    app = probe_app(**{name: f"/api/{name}" for name in names})
    app.root_path = "/api/"

    assert [fault.rpartition("; ")[2] for fault in faults(app)] == [
        f"write /{name}." for name in names
    ]


def test_a_function_that_makes_a_layer_is_named(probe_app: ProbeApp) -> None:
    app = probe_app()
    app.add_middleware(making)

    (fault,) = faults(app)

    assert f"{making.__module__}.making was added outside" in fault
    assert "own=[innermost(Middleware(making))]" in fault


def test_the_server_is_told_why_it_may_not_start(probe_app: ProbeApp) -> None:
    """It prints that message; an exception alone it may take for an app without a lifespan."""
    app = probe_app()
    app.add_middleware(Mine)
    sent: list[Message] = []

    with pytest.raises(RuntimeError, match="was added outside the middleware stack"):
        asyncio.run(_start(app, sent))

    (failed,) = sent
    assert failed["type"] == "lifespan.startup.failed"
    assert "Mine was added outside the middleware stack" in failed["message"]


def test_a_server_without_asyncio_is_told_so(probe_app: ProbeApp) -> None:
    """As hypercorn with trio: the layers would fail at each request."""
    sent: list[Message] = []

    with pytest.raises(RuntimeError, match="The layers need asyncio"):
        _start(probe_app(), sent).send(None)

    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]


async def _start(app: ASGIApp, sent: list[Message]) -> None:
    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "state": {}}, receive, send)


def test_own_layers_stand_where_they_are_put(probe_app: ProbeApp) -> None:
    outer, inner, near, around = (
        Middleware(named(name)) for name in ("Outer", "Inner", "Near", "Around")
    )

    app = probe_app(
        own=[outermost(outer), innermost(inner), inside(FIRST, near), outside(FIRST, around)]
    )

    stack = names(app)
    first = stack.index("OrderCheck")
    assert stack[first + 1 : first + 5] == ["Outer", "Around", FIRST, "Near"]
    assert stack[stack.index("ExceptionMiddleware") - 1] == "Inner"
    assert faults(app) == []


def test_an_own_layer_beside_one_that_is_not_there_is_refused(
    probe_app: ProbeApp, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        probe_app(own=[inside("nothing", Middleware(Mine))])

    assert "Mine can't be directly inside 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "own",
    [
        pytest.param([Mine], id="a class"),
        pytest.param([Middleware(Mine)], id="no place"),
        pytest.param(outermost(Middleware(Mine)), id="no list"),
        pytest.param([outermost(named("Mine"))], id="a class with a place"),
        pytest.param([swapped(Middleware(Mine), FIRST)], id="swapped"),
    ],
)
def test_an_own_layer_without_a_place_is_refused(
    own: Any, probe_app: ProbeApp, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        probe_app(own=own)

    sentence = capsys.readouterr().err
    assert sentence.startswith("own= takes a list of layers with a place")
    assert "Mine" in sentence


def test_the_command_prints_the_live_stack() -> None:
    output = subprocess.run(  # noqa: S603 - Python itself
        [sys.executable, "-c", COMMAND, "--json"], check=False, capture_output=True, text=True
    )

    rows = json.loads(output.stdout)
    assert [row["layer"] for row in rows if row["layer"]] == list(LAYERS)
    assert all(row["reason"] for row in rows if row["layer"])
    assert rows[-1]["class"] == "fastapi.routing.APIRouter"
    assert output.returncode == 0


def test_the_command_prints_for_people_and_tells_faults(
    probe_app: ProbeApp, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = probe_app()
    app.add_middleware(Mine)
    monkeypatch.setattr("app.main.app", app)
    monkeypatch.setattr(sys, "argv", ["app.middleware"])

    status = main({})

    printed = capsys.readouterr()
    rows = [line.split(maxsplit=1) for line in printed.out.splitlines()]
    reasons = [[name, place.because] for name, place in LAYERS.items()]
    assert [row for row in rows if row[0] != "-"] == reasons
    assert ["-", f"{Mine.__module__}.Mine"] in rows
    assert "Mine was added outside the middleware stack" in printed.err
    assert status == 1


@pytest.mark.parametrize(
    "command", [["explain", "/probe/ok"], ["route", "/probe/ok"], ["openapi"]], ids=" ".join
)
def test_every_command_ends_with_the_faults(
    command: list[str],
    probe_app: ProbeApp,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What it shows is of a service that doesn't start."""
    app = probe_app(routes={"/nope": Policy()})
    app.add_middleware(Mine)
    monkeypatch.setattr("app.main.app", app)
    monkeypatch.setattr(sys, "argv", ["app.middleware", *command])

    status = main({})

    printed = capsys.readouterr()
    assert status == 1
    assert printed.out
    assert "Mine was added outside the middleware stack" in printed.err
    assert "ROUTES['/nope'] matches no route." in printed.err


@pytest.mark.parametrize("command", ["explain", "route"])
def test_a_wrong_command_line_ends_with_a_sentence(
    command: str,
    probe_app: ProbeApp,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("app.main.app", probe_app())
    monkeypatch.setattr(sys, "argv", ["app.middleware", command, "orders"])

    status = main({})

    assert status == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1


def test_a_command_is_run_with_its_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.middleware", "greet", "alice"])

    assert main({"greet": lambda name: f"Hello, {name}!"}) == 0

    assert capsys.readouterr().out == "Hello, alice!\n"


def _with_header(scope: Scope) -> None:
    scope["headers"] = [*scope["headers"], (b"x-new", b"1")]


CHANGES: dict[str, Callable[[Scope], object]] = {
    "a header more": _with_header,
    "a header more in place": lambda scope: scope["headers"].append((b"x-new", b"1")),
    "no headers": lambda scope: scope.update(headers=[]),
    "client": lambda scope: scope.update(client=("192.0.2.7", 1)),
    "state": lambda scope: scope.update(state={"tenant": "a"}),
    "method": lambda scope: scope.update(method="PUT"),
    "path": lambda scope: scope.update(path="/probe/other"),
}


class Change(Layer):
    def __init__(self, app: ASGIApp, *, change: Callable[[Any], object]) -> None:
        super().__init__(app)
        self.change = change


class Changing(Change):
    def enter(self, exchange: Exchange) -> None:
        self.change(exchange.scope)


class Correcting(Change):
    def enter(self, exchange: Exchange) -> None:
        exchange.client = ("192.0.2.7", 1)


class ChangingAround(Change):
    async def around(self, exchange: Exchange, place: Place) -> None:
        self.change(exchange.scope)
        await place.proceed()


class ChangingPlain:
    def __init__(self, app: ASGIApp, *, change: Callable[[Any], object]) -> None:
        self.app = app
        self.change = change

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.change(scope)
        await self.app(scope, receive, send)


class Recording(Layer):
    def __init__(self, app: ASGIApp, *, seen: list[Any]) -> None:
        super().__init__(app)
        self.seen = seen


class Seeing(Recording):
    def enter(self, exchange: Exchange) -> None:
        scope, state = exchange.scope, exchange.state
        self.seen.append((exchange.client, scope["client"], exchange.method, exchange.path))
        self.seen.append((exchange.headers.get(b"x-new"), b"host" in exchange.headers))
        self.seen.append((state.get("tenant"), state is scope["state"]))


def _seen_behind(cls: Any, change: object, client: ProbeClient) -> list[Any]:
    seen: list[Any] = []
    own = [
        innermost(Middleware(cls, change=change)),
        innermost(Middleware(Seeing, seen=seen)),
    ]
    client(own=own).get("/probe/ok")
    return seen


@pytest.mark.parametrize("cls", [Changing, ChangingAround])
@pytest.mark.parametrize("change", CHANGES)
def test_a_request_that_an_own_layer_changes_is_seen_as_behind_a_plain_class(
    change: str, cls: type[Change], probe_client: ProbeClient
) -> None:
    seen = _seen_behind(cls, CHANGES[change], probe_client)

    assert seen == _seen_behind(ChangingPlain, CHANGES[change], probe_client)
    assert seen != _seen_behind(ChangingPlain, id, probe_client)


def test_a_client_that_an_own_layer_corrects_is_seen(probe_client: ProbeClient) -> None:
    seen = _seen_behind(Correcting, id, probe_client)

    assert seen == _seen_behind(ChangingPlain, CHANGES["client"], probe_client)


class Hiding:
    def __init__(self, app: ASGIApp) -> None:
        self.wrapped = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.wrapped({**scope}, receive, send)


def hiding(app: ASGIApp) -> ASGIApp:
    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope}, receive, send)

    return run


@pytest.mark.parametrize("factory", [Hiding, hiding, partial(Hiding)])
def test_what_an_own_layer_hides_is_found(
    factory: Any, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = probe_app(own=[outermost(Middleware(factory)), innermost(Middleware(factory))])

    assert probe_client(app=app).get("/probe/ok").status_code == 200
    built = [*layers_from(app.middleware_stack)]
    assert {item.cls for item in app.user_middleware} - {factory} <= {*map(type, built)}
    assert isinstance(built[-1], Router)


class Elsewhere:
    """Responds with another route where the first has nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def nowhere(_: Message) -> None:
            pass

        if scope["type"] == "http":
            await self.app(scope, receive, nowhere)
            scope = {**scope, "path": "/other"}
        await self.app(scope, receive, send)


class Told(Recording):
    def ended(self, exchange: Exchange) -> None:
        self.seen.append((exchange.route, exchange.full_path))


def test_the_route_of_a_second_pass_is_found(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    told: list[Any] = []
    app = probe_app(own=[innermost(Middleware(Told, seen=told)), innermost(Middleware(Elsewhere))])
    app.add_api_route("/other", lambda: None)

    probe_client(app=app).get("/nothing")

    assert told == [("/other", "/nothing")]


def test_the_path_stays_the_one_that_was_requested(probe_client: ProbeClient) -> None:
    told: list[Any] = []
    change = CHANGES["path"]
    own = [
        innermost(Middleware(Told, seen=told)),
        innermost(Middleware(ChangingPlain, change=change)),
    ]

    probe_client(own=own).get("/probe/ok")

    assert [path for _, path in told] == ["/probe/ok"]
