"""Routes: whatever can respond has a template, for policies, the log, metrics and commands."""

import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Match, Mount, Route, Router
from starlette.types import Receive, Scope, Send

from app.middleware import Exchange, Layer, outermost
from app.middleware.core.check import policies_of
from app.middleware.core.command_line import main
from tests.middleware.conftest import ProbeApp, ProbeClient

HOSTS: Final = ["localhost", "plain.example", "full.example", "routed.example"]


class Kind(NamedTuple):
    """
    A path, and the template of what takes it.

    `logged` is that of the log and the metrics, where it is another: they look into mounts and
    hosts.
    """

    path: str
    template: str
    logged: str | None
    host: str = "localhost"


EVERYTHING: Final = "/{path:path}"
KINDS: Final = {
    "route": Kind("/things/7", "/things/{thing}", "/things/{thing}"),
    "route of Starlette": Kind("/plain", "/plain", "/plain"),
    "another of one endpoint": Kind("/twin/a", "/twin/{name}", "/twin/{name}"),
    "ASGI route": Kind("/raw", "/raw", "/raw"),
    "included route": Kind("/part/things", "/part/things", "/part/things"),
    "included route of Starlette": Kind("/part/plain", "/part/plain", "/part/plain"),
    "included mount": Kind("/part/mount/a", "/part/mount/{path:path}", "/part/mount/{path}"),
    "mount": Kind("/mount/a", "/mount/{path:path}", "/mount/{path}"),
    "mounted route": Kind("/full/7/b", "/full/{n}/{path:path}", "/full/{n}/b"),
    "mounted frontend": Kind("/full/7/web/a.js", "/full/{n}/{path:path}", "/full/{n}/web/{path}"),
    "host": Kind("/a", EVERYTHING, "/{path}", "plain.example"),
    "route of a host": Kind("/b", EVERYTHING, "/b", "full.example"),
    "mount of a host": Kind("/m/a", EVERYTHING, "/m/{path}", "full.example"),
    "frontend of a host": Kind("/web/a.js", EVERYTHING, "/web/{path}", "full.example"),
    "router of a host": Kind("/b", EVERYTHING, "/b", "routed.example"),
    "frontend": Kind("/web/a.js", "/web/{path:path}", "/web/{path}"),
    "frontend itself": Kind("/web", "/web/{path:path}", "/web/{path}"),
    "frontend in a frontend": Kind("/web/in/a.js", "/web/in/{path:path}", "/web/in/{path}"),
    "included frontend": Kind("/part/web/a.js", "/part/web/{path:path}", "/part/web/{path}"),
    "a kind of your own": Kind("/own", EVERYTHING, None),
    "default of the router": Kind("/nowhere", EVERYTHING, "/{path}"),
}


class Witness(Layer):
    """Note which rule holds for a request, and the route that is logged."""

    rule: Any = None
    route: str | None = ""

    def enter(self, exchange: Exchange) -> None:
        found = policies_of(exchange.scope["app"])
        rule = found.rule_for(exchange.scope) if found else None
        type(self).rule = rule.name if rule else None

    def ended(self, exchange: Exchange) -> None:
        type(self).route = exchange.route


class Own(BaseRoute):
    """A route that shows nobody its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if scope["path"] == "/own" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(scope, receive, send)


class Raw:
    """An app without routes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(scope, receive, send)


async def respond(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


def plain(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


def add_kinds(app: FastAPI, folder: Path) -> None:
    """Add one of each kind to an app."""
    for name in ("a.js", "index.html"):
        (folder / name).write_text("ok", "utf-8")
    full = FastAPI()
    full.add_api_route("/b", plain)
    full.mount("/m", Raw())
    full.frontend("/web", directory=folder)
    part = APIRouter()
    part.add_api_route("/things", plain)
    part.add_route("/plain", plain)
    part.mount("/mount", Raw())
    part.frontend("/web", directory=folder)

    app.add_api_route("/things/{thing}", plain)
    app.router.routes += [Route("/plain", plain), Route("/twin/{name}", plain)]
    app.router.routes.append(Route("/raw", Raw()))
    app.include_router(part, prefix="/part")
    app.router.routes += [Mount("/mount", Raw()), Mount("/full/{n}", full), Own()]
    app.host("plain.example", Raw())
    app.host("full.example", full)
    app.host("routed.example", Router([Route("/b", plain)]))
    app.frontend("/web", directory=folder)
    app.frontend("/web/in", directory=folder)


@pytest.fixture(params=KINDS.values(), ids=[*KINDS])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def app(kind: Kind, probe_app: ProbeApp, tmp_path: Path) -> FastAPI:
    own = [outermost(Middleware(Witness))]
    routes: Any = {"/*": {}, f"GET {kind.template}": {}}
    app = probe_app(own=own, routes=routes, allowed_hosts=HOSTS)
    add_kinds(app, tmp_path)
    if kind is KINDS["default of the router"]:
        app.router.default = respond
    return app


def test_whatever_responds_has_a_rule_and_a_label(
    kind: Kind, app: FastAPI, probe_client: ProbeClient
) -> None:
    client = probe_client(app=app, base_url=f"https://{kind.host}")

    assert client.get(kind.path).status_code in {200, 307}

    assert Witness.rule == f"GET {kind.template}"
    assert Witness.route == kind.logged


def test_the_command_finds_whatever_responds(
    kind: Kind,
    app: FastAPI,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("app.main.app", app)
    monkeypatch.setattr(sys, "argv", ["app.middleware", "route", f"https://{kind.host}{kind.path}"])

    assert main({}) == 0

    assert capsys.readouterr().out.splitlines()[0] == kind.template
