"""The command `explain`: what each layer did with a request, and nothing that it changes itself."""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware import Layer, Refusal, innermost, inside, outermost, refuse
from app.middleware.core.check import policies_of
from app.middleware.core.exchange import Exchange
from app.middleware.core.explain.command import changed_stack, explain_request
from app.middleware.core.explain.facts import Change
from app.middleware.core.explain.recorder import Recorder
from app.middleware.core.explain.request import WrongUseError, add_arguments
from app.middleware.core.explain.run import declared_stack, names_of
from app.middleware.core.explain.text import change_text
from app.middleware.order import LAYERS, RULES
from app.middleware.policy import FIELDS, Policy
from tests.middleware.conftest import COMMAND, SERVICE, ProbeApp

FIRST = next(iter(LAYERS))
SECRET = sha256(b"explain").hexdigest()[:16]
SWITCH = next((name for name, kind in Policy.__annotations__.items() if kind is bool), "")

Explain = Callable[..., Any]
Run = Callable[..., str]


class Marking:
    """Name a request on its way in and its response on the way out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})["mark"] = "in"

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-mark", b"out")]}
            await send(message)

        await self.app(scope, receive, send_marked)


class Passing(Marking):
    """Change nothing."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Registering(Passing):
    """Leave a tool for endpoints."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["tool"] = object()
        await super().__call__(scope, receive, send)


class Refusing(Marking):
    """Let nothing in."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse("closed", 403)(scope, receive, send)


class Rejecting(Marking):
    """Let nothing in, and say who rejected it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse(scope, receive, send, layer="doorman", status=403, detail="Closed.")


class Failing(Marking):
    """Refuse to start."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            msg = "the database is not there"
            raise RuntimeError(msg)
        await self.app(scope, receive, send)


@pytest.fixture
def run(probe_app: ProbeApp, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what is printed: `run("/probe/ok", app=...)`."""

    def run(*options: str, app: FastAPI | None = None, status: int = 0) -> str:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        parser.set_defaults(json=False)
        capsys.readouterr()
        service = app or probe_app()
        policies = policies_of(service)
        assert policies
        assert explain_request(service, policies, parser.parse_args(options)) == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    return run


@pytest.fixture
def explain(run: Run) -> Explain:
    """Return the facts as JSON."""

    def ask(*options: str, **keywords: Any) -> Any:
        return json.loads(run(*options, "--json", **keywords))

    return ask


def step(explanation: Any, name: str) -> Any:
    (found,) = (step for step in explanation["steps"] if step["name"] == name)
    return found


# The recorder


def test_the_recorder_passes_the_same_objects_on() -> None:
    passed: list[Any] = []
    incoming: list[Message] = [{"type": "http.request", "body": b"1", "more_body": False}]
    outgoing: list[Message] = [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b"},
    ]
    scope: Scope = {"type": "http", "headers": [], "state": {}}

    async def app(inner: Scope, receive: Receive, send: Send) -> None:
        passed.extend([inner, await receive()])
        for number, message in enumerate(outgoing):
            await send(message)
            # Nothing waits for the next message.
            assert len(sent) == number + 1

    sent: list[Message] = []

    async def receive() -> Message:
        return incoming[0]

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Recorder(app, place=0, passages={})(scope, receive, send))

    assert [id(item) for item in passed] == [id(scope), id(incoming[0])]
    assert [id(item) for item in sent] == [id(item) for item in outgoing]


def test_the_recorder_lets_an_exception_pass() -> None:
    error = RuntimeError("as it was")

    async def app(*_: Any) -> None:
        raise error

    nothing: Any = None
    with pytest.raises(RuntimeError) as caught:
        asyncio.run(Recorder(app, place=0, passages={})({"type": "http"}, nothing, nothing))

    assert caught.value is error


def test_the_app_itself_is_left_alone(run: Run, probe_app: ProbeApp) -> None:
    app = probe_app()
    before = dict(vars(app))

    run("/probe/ok", app=app)

    # The first request of any app gives it an `openapi` of its own.
    assert {key: value for key, value in vars(app).items() if key != "openapi"} == before


def test_the_service_imports_nothing_of_it() -> None:
    program = f"{SERVICE}, sys; print(*(name for name in sys.modules if 'explain' in name))"

    done = subprocess.run(  # noqa: S603 - Python itself
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == ""


# What is explained


def test_each_layer_is_a_step(explain: Explain, probe_app: ProbeApp) -> None:
    app = probe_app(own=[inside(FIRST, Middleware(Marking))])

    found = explain("/probe/ok", app=app)

    names = names_of(declared_stack(app))
    assert [step["name"] for step in found["steps"]] == ["outer", *names, "exceptions", "routes"]
    assert names[:2] == [FIRST, "Marking"]
    assert all(step["reached"] for step in found["steps"])
    assert (found["responded_by"], found["response"]["status"]) == ("routes", 200)
    assert found["route"]["path"] == "/probe/ok"
    assert found["broken_rules"] == []


class Closing(Layer):
    def enter(self, exchange: Exchange) -> Refusal:  # noqa: ARG002
        return Refusal(status=403, detail="Closed.")


class Named(Closing):
    name = "tenant"


@pytest.mark.parametrize(("cls", "name"), [(Closing, "Closing"), (Named, "tenant")])
def test_a_layer_of_yours_has_one_name(
    cls: type[Layer], name: str, explain: Explain, probe_app: ProbeApp
) -> None:
    app = probe_app(own=[outermost(Middleware(cls))])

    found = explain("/probe/ok", app=app)

    assert found["responded_by"] == name
    assert json.loads(found["response"]["body"])["layer"] == name
    assert name not in names_of(changed_stack(declared_stack(app), [name], swaps=False))


class Slotted(Refusing):
    """Has a name for each object, and none itself."""

    __slots__ = ("name",)


def test_a_class_whose_name_is_no_text_is_called_by_its_own() -> None:
    assert names_of([Middleware(Slotted)]) == ["Slotted"]


def test_the_layers_of_the_template_have_their_names(probe_app: ProbeApp) -> None:
    stack: Any = declared_stack(probe_app())

    assert [item.cls.name for item in stack] == [*LAYERS]


def test_a_layer_shows_what_it_changes(explain: Explain, probe_app: ProbeApp) -> None:
    found = step(
        explain("/probe/ok", app=probe_app(own=[outermost(Middleware(Marking))])), "Marking"
    )

    assert found["request"] == [{"name": "state.mark", "before": None, "after": "in"}]
    assert found["headers"] == [{"name": "x-mark", "before": None, "after": "out"}]


def test_a_refusal_names_who_was_not_reached(explain: Explain, probe_app: ProbeApp) -> None:
    app = probe_app(own=[inside(FIRST, Middleware(Refusing))])

    found = explain("/probe/ok", app=app)

    assert (found["responded_by"], found["response"]["status"]) == ("Refusing", 403)
    assert found["never_reached"] == [*list(LAYERS)[1:], "exceptions", "routes"]
    assert step(found, FIRST)["reached"]


@pytest.mark.skipif("metrics" not in LAYERS, reason="its route rejects")
def test_a_layer_rejects_from_its_own_route_too(explain: Explain) -> None:
    found = explain("/metrics", "--client", "203.0.113.9")

    assert (found["responded_by"], found["response"]["status"]) == ("metrics", 403)
    assert found["refusal"]["layer"] == "metrics"
    assert found["refusal"]["settings"][0]["name"] == "METRICS_ALLOW"


@pytest.mark.skipif(not SWITCH, reason="no layer here can be switched off")
def test_a_route_has_its_policy_whether_reached_or_not(
    explain: Explain, run: Run, probe_app: ProbeApp
) -> None:
    app = probe_app(own=[outermost(Middleware(Refusing))], routes={"/probe/*": {SWITCH: False}})

    route = explain("/probe/ok", app=app)["route"]

    assert route["path"] == "/probe/ok"
    sources = {row["name"]: row["source"] for row in route["policy"]}
    assert sources.keys() == FIELDS.keys()
    assert sources[SWITCH] == "ROUTES['/probe/*']"
    assert f"{SWITCH}=false (ROUTES['/probe/*'])" in run("/probe/ok", app=app)


@pytest.mark.skipif(not SWITCH, reason="no layer here can be switched off")
def test_a_mount_has_its_policy(explain: Explain, probe_app: ProbeApp) -> None:
    app = probe_app(routes={"/mounted/*": {SWITCH: False}})
    app.mount("/mounted", FastAPI())

    route = explain("/mounted/docs", app=app)["route"]

    assert route["path"] == "/mounted/{path:path}"
    sources = {row["name"]: row["source"] for row in route["policy"]}
    assert sources[SWITCH] == "ROUTES['/mounted/*']"
    assert route["mounted"] == []


def test_a_layer_of_a_mounted_app_is_named(explain: Explain, run: Run, probe_app: ProbeApp) -> None:
    mounted = probe_app(own=[innermost(Middleware(Rejecting))])
    app = probe_app()
    # Below what has no layers of its own.
    app.mount("/tenants/{tenant}", Starlette(routes=[Mount("/in", Passing(mounted))]))

    found = explain("/tenants/a/in/probe/ok", app=app)

    assert found["responded_by"] == "routes"
    assert found["refused_inside"] == "doorman"
    assert found["route"]["mounted"] == ["/tenants/{tenant}/in"]
    printed = run("/tenants/a/in/probe/ok", app=app)
    assert "403 Forbidden from the layer doorman inside the routes" in printed
    assert "the app mounted at /tenants/{tenant}/in has layers of its own" in printed


def test_neighbours_with_the_same_to_say_share_a_line(run: Run, probe_app: ProbeApp) -> None:
    own = [outermost(Middleware(cls)) for cls in (Passing, Passing, Marking)]

    lines = [line.split() for line in run("/probe/ok", app=probe_app(own=own)).splitlines()]

    assert ["2", "layers", "unchanged:", "Passing,", "Passing"] in lines
    assert ["Marking", "+", "state.mark:", "in"] in lines


def test_an_object_of_a_layer_is_not_shown(explain: Explain, probe_app: ProbeApp) -> None:
    app = probe_app(own=[outermost(Middleware(Registering))])

    assert step(explain("/probe/ok", app=app), "Registering")["request"] == []


def test_an_exception_has_its_origin(explain: Explain) -> None:
    found = explain("/probe/boom")

    assert found["fault"]["error"] == "RuntimeError"
    assert found["fault"]["where"].startswith("tests/middleware/probe.py:")
    assert found["fault"]["raised_in"] == "routes"
    handler = "error_handler" if "error_handler" in LAYERS else "outer"
    assert (found["fault"]["handled_by"], found["response"]["status"]) == (handler, 500)


def test_a_stream_is_shown_in_its_parts(explain: Explain) -> None:
    found = explain("/probe/stream?chunks=3&seconds=0.01")

    assert found["response"]["body"].count("\n") == 3
    assert found["response"]["chunks"] == 3


def test_a_response_that_takes_too_long_is_cut_off(explain: Explain) -> None:
    found = explain("/probe/events?chunks=1000&seconds=0.05", "--max-time", "0.3")

    assert found["cut_off"]
    assert found["response"]["status"] == 200
    assert "data: 0" in found["response"]["body"]


def test_a_body_is_sent(explain: Explain) -> None:
    found = explain("/probe/items", "-d", '{"name": "onion"}')

    assert found["request"]["method"] == "POST"
    assert found["response"]["body"] == '{"name":"onion"}'


def test_a_handshake_is_accepted_and_refused(explain: Explain, probe_app: ProbeApp) -> None:
    accepted = explain("/probe/ws", "--websocket")
    closed = probe_app(own=[outermost(Middleware(Refusing))])
    refused = explain("/probe/ws", "--websocket", app=closed)

    assert (accepted["responded_by"], accepted["response"]["status"]) == ("routes", 101)
    assert (refused["responded_by"], refused["response"]["status"]) == ("Refusing", 403)


def test_an_address_of_websockets_is_a_handshake(explain: Explain) -> None:
    assert explain("WSS://localhost/probe/ws")["response"]["status"] == 101


def test_the_last_of_several_is_explained(explain: Explain, probe_app: ProbeApp) -> None:
    app = probe_app()
    seen: list[str] = []

    @app.get("/counted")
    async def counted() -> int:
        seen.append("")
        return len(seen)

    assert explain("/counted", "--repeat", "3", app=app)["response"]["body"] == "3"


@pytest.mark.skipif(not RULES, reason="any order of these layers is right")
def test_a_wrong_order_is_said_first(run: Run, probe_app: ProbeApp) -> None:
    """The service would not start; what comes of the order is shown all the same."""
    app = probe_app()
    rule = RULES[0]
    stack = declared_stack(app)
    app.user_middleware = [
        app.user_middleware[0],
        *changed_stack(stack, [rule.outside, rule.inside], swaps=True),
    ]

    text = run("/probe/ok", app=app)

    assert "The service refuses to start like this" in text
    assert f"{rule.outside} must run outside" in text


# How it is printed


def test_the_text_fits_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    text = run("/probe/ok", "-H", f"X-Long: {'long ' * 40}")

    assert "\x1b" not in text
    assert [line for line in text.splitlines() if len(line) > 80 or line != line.rstrip()] == []
    assert "Way in, outermost layer first" in text


def test_control_characters_of_a_response_are_shown(run: Run) -> None:
    text = run("/probe/headers?name=X-Odd&value=%C2%9B31m")

    assert "\x9b" not in text
    assert "\\x9b31m" in text


def test_the_diagram_has_the_refusal(run: Run, probe_app: ProbeApp) -> None:
    text = run("/probe/ok", "--mermaid", app=probe_app(own=[outermost(Middleware(Refusing))]))

    assert text.startswith("sequenceDiagram\n")
    assert "client->>Refusing: GET http://localhost/probe/ok" in text
    assert "Refusing-->>client: 403" in text


@pytest.mark.parametrize("form", [[], ["--json"], ["--mermaid"], ["-i"]])
def test_secrets_are_masked(form: list[str], run: Run) -> None:
    """Whatever the form; a secret that a response repeats is one too."""
    headers = (
        f"Proxy-Authorization: Bearer {SECRET}",
        f"Cookie: theme=dark; session={SECRET}",
        f"X-Access-Token: {SECRET}",
    )
    options = [f"/probe/headers?token={SECRET}&name=X-Echo&value={SECRET}"]
    for header in headers:
        options += ["-H", header]

    assert SECRET not in run(*options, *form)
    assert SECRET in run(*options, *form, "--show-secrets")


@pytest.mark.parametrize("form", [[], ["--json"], ["-i"]])
def test_no_header_that_a_layer_sets_is_masked(
    form: list[str], run: Run, probe_app: ProbeApp
) -> None:
    """For a request without a secret; those for pages have names like those of secrets."""
    origin = "https://app.example"
    allowed = {"cors_allow_origins": [origin], "cors_allow_credentials": True}
    app = probe_app(**(allowed if "cors" in LAYERS else {}))

    text = run("/probe/ok", "-H", f"Origin: {origin}", *form, app=app)

    assert "***" not in text
    assert ("access-control-allow-credentials" in text) == ("cors" in LAYERS)


@pytest.mark.skipif("required_headers" not in LAYERS, reason="no header is required")
@pytest.mark.parametrize("form", [[], ["--json"], ["-i"]])
def test_a_required_header_is_named_without_its_value(
    form: list[str], run: Run, probe_app: ProbeApp
) -> None:
    """A gateway may prove itself by it."""
    app = probe_app(required_headers=["X-Gateway: pa55", "X-Zone: eu"])

    for headers in ("", "-H X-Gateway:pa55"):
        text = run("/probe/ok", *headers.split(), *form, app=app)

        assert "pa55" not in text
        assert "X-Gateway" in text
    assert "pa55" in run("/probe/ok", *form, "--show-secrets", app=app)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["orders"], "'orders' is no path and no URL"),
        (["http://é..example/x"], "'é..example' is no host"),
        ([f"https://{'ü' * 64}.example:8000"], "is no host"),
        (["a", "GET", "/orders"], "Give one method and one path"),
        (["G T", "/"], "'G T' is no method"),
        (["/", "-H", "Origin"], "'Origin' is no header"),
        (["/", "-H", "A: b\nC: d"], "is no header"),
        (["/", "-d", "@missing"], "'missing' can't be read"),
        (["/", "--client", "here"], "--client takes an IP address"),
        (["/", "--websocket", "-d", "x"], "--websocket shows a handshake"),
        (["wss://localhost/", "-d", "x"], "--websocket shows a handshake"),
        (["/", "--repeat", "0"], "take a number above 0"),
        (["/", "--swap", "nobody", FIRST], f"It has {FIRST}"),
        (["/", "--swap", FIRST, FIRST], "two different layers"),
        (["/", "--without", "nobody"], f"It has {FIRST}"),
    ],
)
def test_wrong_use_is_a_sentence(options: list[str], sentence: str, run: Run) -> None:
    with pytest.raises(WrongUseError) as raised:
        run(*options)

    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_service_that_does_not_start_is_a_sentence(run: Run, probe_app: ProbeApp) -> None:
    text = run("/", app=probe_app(own=[outermost(Middleware(Failing))]), status=1)

    assert text == "The service doesn't start: the database is not there\n"


# Another order


def test_two_layers_are_swapped(probe_app: ProbeApp) -> None:
    stack = declared_stack(probe_app(own=[outermost(Middleware(Marking))]))
    names = names_of(stack)

    swapped = changed_stack(stack, ["Marking", FIRST], swaps=True)
    without = changed_stack(stack, ["Marking"], swaps=False)

    assert names_of(swapped) == [FIRST, "Marking", *names[2:]]
    assert names_of(without) == names[1:]
    with pytest.raises(WrongUseError):
        changed_stack(without, ["Marking"], swaps=False)


def command(*options: str) -> str:
    """Return what the command prints in a process of its own."""
    done = subprocess.run(  # noqa: S603 - Python itself
        [sys.executable, "-c", COMMAND, *options], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_command_draws_both() -> None:
    text = command("explain", "/healthz", "--without", FIRST, "--mermaid")

    assert text.count("sequenceDiagram") == 2


def test_its_options_may_be_before_its_name() -> None:
    assert json.loads(command("--json", "explain", "/healthz"))["steps"]


def test_the_command_compares_both() -> None:
    both = json.loads(command("explain", "/healthz", "--without", FIRST, "--json"))

    assert FIRST in [step["name"] for step in both["declared"]["steps"]]
    assert FIRST not in [step["name"] for step in both["changed"]["steps"]]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (None, "Origin", "+ vary: Origin"),
        ("Cookie", "Cookie, Origin", "+ vary: Origin"),
        ("Cookie", "Origin, Cookie", "+ vary: Origin"),
        ("Cookie", "Origin", "~ vary: Cookie → Origin"),
        ("Cookie", None, "- vary: Cookie"),
    ],
)
def test_a_change_is_shown_by_what_is_new(
    before: str | None, after: str | None, shown: str
) -> None:
    assert change_text(Change(name="vary", before=before, after=after)).plain == shown
