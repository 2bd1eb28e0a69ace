"""Policies: an entry of the table holds for its route, in every spelling, and for no other."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from pydantic import PositiveInt
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from app.middleware.core.check import OrderCheck, policies_of
from app.middleware.core.command_line import main
from app.middleware.core.environment import EnvironmentSettings
from app.middleware.core.policies import Field, Policies
from tests.middleware.conftest import ProbeApp, stack_settings


def policies(table: Mapping[str, Mapping[str, Any]]) -> Policies:
    fields = {
        "one": Field("no_layer", "one"),
        "rate": Field("no_layer", "rate", "route"),
        "gate": Field("gate"),
        "way": Field("gate", "way"),
    }
    return Policies(table, fields=fields, settings=stack_settings(), stack=[])


def answer(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


@pytest.fixture
def app() -> FastAPI:
    inner = APIRouter(prefix="/v1")
    inner.add_api_route("/things/{thing}", answer, methods=["GET", "POST"])
    inner.add_api_route("/things/{thing}/parts", answer, methods=["PUT"])
    app = FastAPI(openapi_url=None)
    app.add_api_route("/v1/things/special", answer, methods=["POST"])
    app.include_router(inner)
    app.router.routes.append(Route("/plain", answer))
    app.router.routes.append(Mount("/files", app=Route("/{path:path}", answer)))
    app.add_api_websocket_route("/v1/live", answer)
    app.add_api_route("/number/{number:int}", answer)
    return app


def rule(
    table: Policies, app: FastAPI, request: str, *, root_path: str = "", headers: Any = ()
) -> str | None:
    method, _, path = request.partition(" ")
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "root_path": root_path}
    if method == "WEBSOCKET":
        scope = {"type": "websocket", "path": path, "root_path": root_path}
    found = table.rule_for({**scope, "headers": list(headers), "app": app})
    return found.name if found else None


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("GET /v1/things/7", "/v1/things/{thing}"),
        ("POST /v1/things/7", "POST /v1/things/{thing}"),
        ("POST /v1/things/7\n", "POST /v1/things/{thing}"),
        ("POST /v1/things/a%2Fb", "POST /v1/things/{thing}"),
        ("POST /v1/things/special", None),
        ("POST /v1/things/7/", None),
        ("POST //v1/things/7", None),
        ("DELETE /v1/things/7", None),
        ("PUT /v1/things/7/parts", "PUT /v1/*"),
        ("WEBSOCKET /v1/live", "WEBSOCKET /v1/live"),
        ("GET /v1/live", None),
        ("HEAD /plain", "GET /plain"),
        ("GET /files/a/b", "/files/{path:path}"),
        ("GET /files", None),
        ("GET /number/" + "9" * 5000, None),
    ],
)
def test_the_router_decides(request_: str, expected: str | None, app: FastAPI) -> None:
    entries = (
        *("/v1/things/{thing}", "POST /v1/things/{thing}", "PUT /v1/*", "WEBSOCKET /v1/live"),
        *("GET /plain", "/files/{path:path}", "/number/{number:int}"),
    )
    table = policies({name: {} for name in entries})

    assert rule(table, app, request_) == expected
    assert list(table.faults(app.routes)) == []


def test_the_path_is_that_below_the_root(app: FastAPI) -> None:
    table = policies({"GET /plain": {}})

    assert rule(table, app, "GET /api/plain", root_path="/api") == "GET /plain"
    assert rule(table, app, "GET /api/plain", root_path="") is None


def test_a_route_of_a_router_that_is_changed_later_is_known(app: FastAPI) -> None:
    table = policies({"GET /late": {}})
    assert rule(table, app, "GET /late") is None

    app.add_api_route("/late", answer)

    assert rule(table, app, "GET /late") == "GET /late"


def test_the_nearest_entry_holds(app: FastAPI) -> None:
    table = policies({name: {} for name in ("/*", "/v1/*", "POST /v1/*", "/v1/things/*")})

    assert rule(table, app, "GET /plain") == "/*"
    assert rule(table, app, "POST /v1/things/7") == "/v1/things/*"
    assert rule(table, app, "POST /v1/things/special") == "/v1/things/*"


@pytest.mark.parametrize(
    ("entries", "added"),
    [
        (["/v1/things/{thing}", "POST /v1/*"], "POST /v1/things/{thing}"),
        (["POST /*", "/v1/*"], "POST /v1/*"),
        (["GET /plain", "HEAD /*"], "HEAD /plain"),
    ],
)
def test_two_entries_without_an_order_end_the_start(
    entries: list[str], added: str, app: FastAPI
) -> None:
    """One has the nearer path, the other the method: nobody knows which was meant."""
    (sentence, *_) = policies({name: {} for name in entries}).faults(app.routes)

    assert all(f"ROUTES[{name!r}]" in sentence for name in entries)
    assert f"Add '{added}' with what holds there." in sentence
    assert list(policies({name: {} for name in [*entries, added]}).faults(app.routes)) == []


def test_head_has_the_entry_of_get_unless_it_has_one(app: FastAPI) -> None:
    for entries in (("GET /plain", "HEAD /plain"), ("HEAD /plain", "GET /plain")):
        table = policies({name: {} for name in entries})
        assert rule(table, app, "HEAD /plain") == "HEAD /plain"
    assert rule(policies({"GET /plain": {}}), app, "HEAD /plain") == "GET /plain"


def test_a_count_is_named_by_its_entry() -> None:
    (found,) = policies({"POST /a/{b:path}": {"rate": True}}).rules

    assert found.changes == {"no_layer": {"rate": True, "route": "POST /a/{b:path}"}}


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("GET /probe/okk", r"\['GET /probe/okk'\] is for no route\. The nearest is /probe/ok"),
        ("PUT /probe/ok", r"ROUTES\['PUT /probe/ok'\] is for no route: /probe/ok has GET only"),
        ("/nowhere/*", "is for no route"),
        ("GET /probe/items/{id}", "The nearest is /probe/items/{item_id}"),
    ],
)
def test_an_entry_without_a_route_ends_the_start(
    entry: str, sentence: str, probe_app: ProbeApp
) -> None:
    with pytest.raises(RuntimeError, match=sentence), TestClient(probe_app(routes={entry: {}})):
        pass


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"probe": {}}, "ROUTES names a route as FastAPI has it"),
        ({"POST /a": 7}, "ROUTES names a route as FastAPI has it"),
        ({"post /a": {}, "POST /a": {}}, "ROUTES has 'post /a' and 'POST /a', which are one."),
        ({"/a": {"on": True}}, "ROUTES['/a'] has on, which no layer here knows. Did you mean one?"),
        ({"/a": {"one": "no"}}, "ROUTES['/a']: one must be True or False, not 'no'."),
        ({"/a": {"gate": False, "way": True}}, "way must not be with gate=False"),
        ({"/a/{b:none}": {}}, "ROUTES['/a/{b:none}'] is no path of a route"),
    ],
)
def test_nonsense_ends_the_start(
    table: Any, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        policies(table)

    assert stopped.value.code == 3
    assert sentence in capsys.readouterr().err


def test_the_command_tells_what_holds(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = policies({"POST /v1/*": {"one": False}})
    app.user_middleware.append(Middleware(OrderCheck, policies=table))
    monkeypatch.setattr("app.main.app", app)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["app.middleware", *arguments])
        return main({})

    assert run("route", "POST", "/v1/things/7", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["route"] == "/v1/things/{thing}"
    assert told["holds"][0] == {
        "name": "one",
        "value": False,
        "layer": "no_layer",
        "from": "ROUTES['POST /v1/*']",
    }
    assert run("route", "/v1/things/7") == 0
    assert "one   stack  true" in capsys.readouterr().out
    assert run("route", "DELETE", "/v1/things/7") == 1
    assert run("route", "DELETE") == 2


def test_a_value_has_the_rules_of_its_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a service's own settings as well, whose class is not made again."""

    class Base(EnvironmentSettings):
        size: PositiveInt = 1

    class Settings(Base):
        partner: str

    given: dict[str, Any] = {"partner": "one", "_env_file": None}
    settings = Settings(**given)

    assert settings.overridden("", ["size"], {"size": 2}) == {"size": 2}
    with pytest.raises(SystemExit):
        settings.overridden("ROUTES: ", ["size"], {"size": 0})
    assert capsys.readouterr().err == "ROUTES: SIZE must be above 0, such as 1, not 0.\n"
    with pytest.raises(SystemExit):
        settings.overridden("ROUTES: ", ["size"], {"size": True})
    assert capsys.readouterr().err == "ROUTES: SIZE must be a number, not True.\n"


def test_a_service_without_a_table_has_no_rule(probe_app: ProbeApp) -> None:
    app = probe_app()
    table = policies_of(app)

    assert table is not None
    assert table.rules == []
    assert rule(table, app, "GET /probe/ok") is None
