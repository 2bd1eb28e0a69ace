"""Policies: an entry of the table holds for its route, in every spelling, and for no other."""

import json
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from pydantic import PositiveInt
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from app.middleware import StackSettings
from app.middleware.core.check import OrderCheck, faults, policies_of
from app.middleware.core.command_line import main
from app.middleware.core.environment import EnvironmentSettings
from app.middleware.core.policies import Field, Policies
from app.middleware.order import LAYERS
from app.middleware.policy import FIELDS
from tests.middleware.conftest import ProbeApp, stack_settings


def policies(table: Mapping[str, Mapping[str, Any]]) -> Policies:
    fields = {
        "one": Field("no_layer", "one"),
        "rate": Field("no_layer", "rate", "route"),
        "gate": Field("gate"),
        "way": Field("gate", "way"),
    }
    return Policies(table, fields=fields, settings=stack_settings(), stack=[])


def no_faults(_: FastAPI) -> list[str]:
    return []


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
    app.add_api_route("/with a space", answer, methods=["M-SEARCH", "POST"])
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
        ("M-SEARCH /with a space", "M-SEARCH /with a space"),
        ("POST /with a space", "/with a space"),
    ],
)
def test_the_router_decides(request_: str, expected: str | None, app: FastAPI) -> None:
    entries = (
        *("/v1/things/{thing}", "POST /v1/things/{thing}", "PUT /v1/*", "WEBSOCKET /v1/live"),
        *("GET /plain", "/files/{path:path}", "/number/{number:int}"),
        *("M-SEARCH /with a space", "/with a space"),
    )
    table = policies({name: {} for name in entries})

    assert rule(table, app, request_) == expected
    assert list(table.faults(app)) == []


def test_a_method_that_is_called_like_the_handshake_is_none(app: FastAPI) -> None:
    app.mount("/live", FastAPI())
    table = policies({"WEBSOCKET /live/{path:path}": {}})
    scope: dict[str, Any] = {"type": "http", "method": "WEBSOCKET", "path": "/live/x"}

    assert table.rule_for({**scope, "headers": [], "app": app}) is None


def test_a_method_in_small_letters_is_the_same(app: FastAPI) -> None:
    """WSGI apps take `post` for POST; the routes of Starlette don't."""
    app.mount("/old", PlainTextResponse("ok"))
    table = policies({"POST /old/{path:path}": {}, "POST /v1/things/{thing}": {}})

    assert rule(table, app, "post /old/x") == "POST /old/{path:path}"
    assert rule(table, app, "websocket /old/x") is None
    assert rule(table, app, "post /v1/things/7") is None


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
    """One has the more specific path, the other the method: nobody knows which was meant."""
    (sentence, *_) = policies({name: {} for name in entries}).faults(app)

    assert all(f"ROUTES[{name!r}]" in sentence for name in entries)
    assert f" Add '{added}'." in sentence
    assert list(policies({name: {} for name in [*entries, added]}).faults(app)) == []


@pytest.mark.parametrize(
    ("lost", "takers"),
    [
        ("/plain", ["GET /plain"]),
        ("/v1/things/*", ["/v1/things/{thing}", "/v1/things/special", "PUT /v1/things/*"]),
        ("GET /v1/*", ["GET /v1/things/{thing}"]),
        ("/v1/live", ["WEBSOCKET /v1/live"]),
        ("/files/*", ["/files/{path:path}"]),
    ],
)
def test_an_entry_whose_requests_others_take_ends_the_start(
    lost: str, takers: list[str], app: FastAPI
) -> None:
    """Its fields hold for no request, such as a key that everybody needs below a path."""

    def said(policy: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
        table = policies({lost: policy, **dict.fromkeys(takers, others)})
        return [it for it in table.faults(app) if "has no effect" in it]

    (sentence,) = said({"rate": False, "one": True}, {"rate": True})

    assert sentence.startswith(f"ROUTES[{lost!r}] has no effect, because each request has")
    assert all(f"ROUTES[{name!r}]" in sentence for name in takers)
    assert sentence.endswith("Write one there too, or remove it.")
    assert said({"rate": False, "one": True}, {"rate": True, "one": False}) == []
    assert said({}, {"rate": True}) == []


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
        ("GET /probe/okk", r"\['GET /probe/okk'\] matches no route\. Did you mean /probe/ok[?]"),
        ("PUT /probe/ok", r"ROUTES\['PUT /probe/ok'\] matches no route: /probe/ok has GET only"),
        ("/nowhere/*", "matches no route"),
        ("GET /probe/items/{id}", "Did you mean /probe/items/{item_id}"),
    ],
)
def test_an_entry_without_a_route_ends_the_start(
    entry: str, sentence: str, probe_app: ProbeApp
) -> None:
    with pytest.raises(RuntimeError, match=sentence), TestClient(probe_app(routes={entry: {}})):
        pass


@pytest.mark.parametrize("path", ["/m", "/m/b/c"])
def test_the_nearest_route_is_one_that_takes_the_path(path: str, probe_app: ProbeApp) -> None:
    app = probe_app(routes={path: {}})
    app.mount("/m", FastAPI())
    app.add_api_route("/m2", lambda: None)

    app.frontend("/", directory=".")

    (fault,) = faults(app)

    assert fault.endswith("Did you mean /m/{path:path}?")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"probe": {}}, "ROUTES names a route as FastAPI has it"),
        ({"POST /a": 7}, "ROUTES names a route as FastAPI has it"),
        ({"post /a": {}, "POST /a": {}}, "ROUTES has 'post /a' and 'POST /a', which are one."),
        ({"/a": {"on": True}}, "has on, which is no field of Policy. Did you mean one?"),
        (["POST /a"], "stack_options(routes=...) takes a table of routes, such as"),
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


def test_a_key_that_is_no_field_names_those_of_its_layer(
    probe_app: ProbeApp, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, place in LAYERS.items():
        own = [field for field in FIELDS if FIELDS[field].layer == name]
        for key in {name, *(setting.lower() for setting in place.settings)} - {*FIELDS}:
            table: Any = {"/probe/ok": {key: True}}
            with pytest.raises(SystemExit):
                probe_app(routes=table)
            said = capsys.readouterr().err
            assert f"has {key}, which is no field: the layer " in said
            assert key != name or said.endswith(f" {', '.join(own) or 'none, so leave it out'}.\n")


class Situation(NamedTuple):
    """
    An entry whose requests some fields can't change.

    `idle` are those fields, `because` the words about one of them. `policy` is what the entry has
    besides.
    """

    entry: str
    idle: str
    because: str = ""
    policy: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}


OF_USERS: Final = "user_rate_limit idempotency_key_required"
OF_CORS: Final = "cors_allow_origins cors_allow_origin_regex cors_allow_credentials"
SITUATIONS: Final = {
    "every route": Situation("/*", "", settings={"probe_paths": ["/probe/ok"]}),
    "a read": Situation(
        "GET /probe/ok",
        "cross_origin idempotency_key_required",
        "idempotency is for PATCH and POST only; leave out idempotency_key_required.",
    ),
    "a method of few": Situation(
        "QUERY /probe/items",
        f"{OF_CORS} cross_origin idempotency_key_required conditional",
        "idempotency is for PATCH and POST only; leave out idempotency_key_required.",
    ),
    "such a method, below a mount": Situation(
        "QUERY /files/*", f"{OF_CORS} cross_origin idempotency_key_required conditional"
    ),
    "a write": Situation(
        "POST /probe/items", "conditional", "conditional is for GET and HEAD only; leave out"
    ),
    "a handshake": Situation(
        "WEBSOCKET /probe/ws",
        f"content_security_policy cross_origin_resource_policy {OF_CORS} required_headers"
        " compression request_timeout max_body_bytes idempotency_key_required conditional",
        "timeout does nothing for WEBSOCKET; leave out request_timeout.",
    ),
    "a probe": Situation(
        "GET /probe/ok",
        "access_log maintenance client_version required_headers rate_limit max_concurrency"
        f" queue_timeout authentication authentication_required cross_origin {OF_USERS}",
        "/probe/ok is in PROBE_PATHS; take it out there, or leave out rate_limit.",
        settings={"probe_paths": ["/probe/ok"]},
    ),
    "a write to the path of a probe": Situation(
        "POST /probe/items", "conditional", settings={"probe_paths": ["/probe/items"]}
    ),
    "an open path": Situation(
        "POST /probe/items",
        f"authentication authentication_required {OF_USERS} conditional",
        "is in AUTHENTICATION_EXEMPT; take it out there, or leave out user_rate_limit.",
        settings={"authentication_exempt": ["/probe/items"]},
    ),
    "the page of a layer": Situation(
        "GET /counts",
        "access_log maintenance client_version required_headers rate_limit max_concurrency"
        " queue_timeout authentication authentication_required cross_origin"
        f" {OF_USERS}",
        "/counts is METRICS_PATH; leave out rate_limit.",
        settings={"metrics_path": "/counts"},
    ),
    "no user": Situation(
        "POST /probe/items",
        f"{OF_USERS} conditional",
        "authentication=False is there too; leave out authentication=False or user_rate_limit.",
        policy={"authentication": False},
    ),
    "a preflight that is refused": Situation(
        "DELETE /probe/items",
        f"{OF_CORS} idempotency_key_required conditional",
        "CORS_ALLOW_METHODS lacks DELETE; add it there, or leave out cors_allow_origins.",
        settings={"cors_allow_methods": ["GET"]},
    ),
}
VALUES: Final[Mapping[str, Any]] = {
    "content_security_policy": "default-src 'none'",
    "cross_origin_resource_policy": "same-site",
    "cors_allow_origins": ["https://a.example"],
    "cors_allow_origin_regex": "^https://a[.]example$",
    "request_timeout": 7.0,
    "rate_limit": "7/minute",
    "max_body_bytes": 7,
    "max_concurrency": 7,
    "queue_timeout": 6.0,
    "user_rate_limit": "7/minute",
}
# A field of a new layer has a test of its own.
KNOWN: Final = VALUES.keys() | {name for each in SITUATIONS.values() for name in each.idle.split()}


@pytest.fixture(params=SITUATIONS.values(), ids=[*SITUATIONS])
def situation(request: pytest.FixtureRequest) -> Situation:
    found: Situation = request.param
    known = {*FIELDS, *StackSettings.model_fields}
    if not {*found.policy, *found.settings} <= known:
        pytest.skip("this selection has no such requests")
    return found


def test_a_field_without_effect_ends_the_start(situation: Situation, probe_app: ProbeApp) -> None:
    """What it asks for would not happen, and nobody would see that."""
    others = [name for name in KNOWN & FIELDS.keys() if FIELDS[name].layer not in situation.policy]
    start = f"ROUTES['{situation.entry}']: "

    found = faults(_app(probe_app, situation, {name: VALUES.get(name, True) for name in others}))

    assert {each.removeprefix(start).partition("=")[0] for each in found} == {
        name for name in others if name in situation.idle.split()
    }
    about = situation.because.rpartition(" ")[2].rstrip(".")
    assert about not in others or any(situation.because in each for each in found)


def test_a_field_that_asks_for_nothing_is_right_anywhere(
    situation: Situation, probe_app: ProbeApp
) -> None:
    switches = [
        name
        for name in KNOWN & FIELDS.keys() - VALUES.keys()
        if FIELDS[name].layer in {name, "cors"}
    ]

    assert faults(_app(probe_app, situation, dict.fromkeys(switches, False))) == []


def test_the_command_shows_no_value_without_effect(
    situation: Situation,
    probe_app: ProbeApp,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    method, _, path = situation.entry.rpartition(" ")
    asked = [method or "POST", path.replace("*", "probe/upload")]
    monkeypatch.setattr("app.main.app", _app(probe_app, situation, {}))
    monkeypatch.setattr(sys, "argv", ["app.middleware", "route", *asked, "--json"])

    assert main({}) == 0

    for row in json.loads(capsys.readouterr().out)["holds"]:
        if row["name"] in situation.idle.split():
            assert not row["value"], row
        elif method and row["name"] in VALUES.keys() - {*OF_CORS.split()}:
            assert row["value"], row


def _app(probe_app: ProbeApp, situation: Situation, policy: Any) -> FastAPI:
    table = {situation.entry: {**situation.policy, **policy}}
    app = probe_app(routes=table, **situation.settings)
    app.add_api_route("/probe/items", answer, methods=["DELETE", "QUERY"])
    app.mount("/files", FastAPI())
    return app


def test_the_command_tells_what_holds(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = policies({"POST /v1/*": {"one": False}})
    app.user_middleware.append(Middleware(OrderCheck, policies=table))
    monkeypatch.setattr("app.main.app", app)
    # Its layers are none, so it wouldn't start.
    monkeypatch.setattr("app.middleware.core.command_line.faults", no_faults)

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
    assert run("route", "/number/%37?a=1") == 0
    assert run("route", "m-search /with a space") == 0
    assert run("route", "/with a space") == 1


def test_the_command_tells_what_the_layers_of_a_mounted_app_hold(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mounted = FastAPI()
    mounted.add_api_route("/things/{thing}", answer)
    table = policies({"GET /things/{thing}": {"one": False}})
    mounted.user_middleware.append(Middleware(OrderCheck, policies=table))
    app.user_middleware.append(Middleware(OrderCheck, policies=policies({})))
    app.mount("/of/{tenant}", mounted)
    monkeypatch.setattr("app.main.app", app)
    monkeypatch.setattr("app.middleware.core.command_line.faults", no_faults)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["app.middleware", "route", *arguments])
        assert main({}) == 0
        return capsys.readouterr().out

    told = json.loads(run("/of/a/things/7", "--json"))
    assert told["route"] == "/of/{tenant}/{path:path}"
    assert told["holds"][0]["from"] == "stack"
    (inner,) = told["mounted"]
    assert (inner["at"], inner["route"]) == ("/of/{tenant}", "/things/{thing}")
    assert inner["holds"][0]["from"] == "ROUTES['GET /things/{thing}']"
    text = run("/of/a/things/7")
    assert "the layers of the app mounted at /of/{tenant}:\n/things/{thing}\n  one" in text
    assert "No route takes it: the settings of that app hold." in run("/of/a/nothing")


@pytest.mark.skipif("readiness" not in LAYERS, reason="no layer has a path")
def test_the_command_names_the_path_of_a_layer(
    probe_app: ProbeApp, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.main.app", probe_app())
    monkeypatch.setattr(sys, "argv", ["app.middleware", "route", "/readyz"])

    assert main({}) == 1

    assert capsys.readouterr().err.startswith("/readyz is READINESS_PATH, where a layer responds.")


@pytest.mark.skipif("readiness" not in LAYERS, reason="no layer has a path")
@pytest.mark.parametrize("entry", ["/readyz", "GET /readyz"])
def test_an_entry_for_the_path_of_a_layer_names_its_setting(
    entry: str, probe_app: ProbeApp
) -> None:
    (sentence,) = faults(probe_app(routes={entry: {}}))

    assert sentence == (
        f"ROUTES[{entry!r}] matches no route. /readyz is READINESS_PATH, where a layer responds."
        " Remove the entry."
    )


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


def test_a_field_empties_the_one_that_it_replaces() -> None:
    """Also where the service has a default of its own, which would stay in force."""

    class Settings(EnvironmentSettings):
        names: tuple[str, ...] = ("of the service",)
        pattern: str = "of the service"

    fields = {
        "names": Field("no_layer", "names", replaces="pattern"),
        "pattern": Field("no_layer", "pattern", replaces="names"),
    }

    def changes(**policy: Any) -> Any:
        table = {"/a": policy}
        (rule,) = Policies(table, fields=fields, settings=Settings(), stack=[]).rules
        return rule.changes["no_layer"]

    assert changes(names=["a"]) == {"names": ("a",), "pattern": ""}
    assert changes(names=[]) == {"names": (), "pattern": ""}
    assert changes(pattern="b") == {"names": (), "pattern": "b"}
    assert changes(names=["a"], pattern="b") == {"names": ("a",), "pattern": "b"}


def test_a_service_without_a_table_has_no_rule(probe_app: ProbeApp) -> None:
    app = probe_app()
    table = policies_of(app)

    assert table is not None
    assert table.rules == []
    assert rule(table, app, "GET /probe/ok") is None
