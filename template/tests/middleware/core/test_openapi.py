"""OpenAPI: a route declares the statuses of the layers that may respond in its place."""

import json
import re
import sys
from copy import deepcopy
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any, Final

import pytest
from fastapi import APIRouter, FastAPI, Header, Query, Security
from fastapi.openapi.utils import get_openapi
from fastapi.security import APIKeyHeader, APIKeyQuery, HTTPBearer, OAuth2PasswordBearer
from fastapi.security.base import SecurityBase
from starlette.middleware import Middleware

from app.middleware.core.command_line import main
from app.middleware.core.layer import Layer
from app.middleware.core.openapi import narrow_openapi
from app.middleware.core.policies import Field, Policies
from app.middleware.order import LAYERS, STATUSES, Place
from app.middleware.problem import MEDIA_TYPE, problem_responses
from tests.middleware.conftest import ProbeApp, ProbeClient, stack_settings

FIELDS = {"gate": Field("gate"), "limit": Field("limiter", "limit")}
PLACES = {
    "gate": Place("Gate", "", statuses=(401,)),
    "limiter": Place("Limiter", "", statuses=(429,)),
    "writer": Place("Writer", "", statuses=(409,), methods=("POST",)),
}


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what the routes declare of three layers, under a table."""
    responses = problem_responses([401, 409, 429])
    monkeypatch.setattr("app.middleware.core.openapi._DECLARED", responses)
    monkeypatch.setattr("app.middleware.core.openapi.LAYERS", PLACES)
    monkeypatch.setattr("app.middleware.core.policies.layer_of", str)
    names: list[Any] = [*PLACES]
    stack = [Middleware(name) for name in names]

    def declared(table: dict[str, Any]) -> dict[str, list[str]]:
        app = FastAPI(responses=responses)
        for method in ("GET", "POST"):
            app.add_api_route("/things/{thing:path}", read, methods=[method])
        app.add_api_route("/own", read, responses={401: {"description": "of the route"}})
        policies = Policies(table, fields=FIELDS, settings=stack_settings(), stack=stack)
        narrow_openapi(app, policies)
        assert app.openapi() is app.openapi()
        return {
            f"{method} {path}": sorted({*operation["responses"]} - {"200", "422"})
            for path, operations in app.openapi()["paths"].items()
            for method, operation in operations.items()
        }

    return declared


def read(thing: str = "") -> str:
    return thing


def hidden(thing: Annotated[int, Query(include_in_schema=False)] = 0) -> int:
    return thing


def test_a_status_that_a_method_can_not_get_is_left_out(declared: Any) -> None:
    found = declared({})

    assert found["get /things/{thing}"] == ["401", "429"]
    assert found["post /things/{thing}"] == ["401", "409", "429"]


def test_a_layer_that_a_route_does_without_is_left_out(declared: Any) -> None:
    found = declared({"GET /things/{thing:path}": {"gate": False, "limit": True}})

    assert found["get /things/{thing}"] == ["429"]
    assert found["post /things/{thing}"] == ["401", "409", "429"]


def test_what_a_route_declares_itself_is_kept(declared: Any) -> None:
    assert "401" in declared({"/own": {"gate": False}})["get /own"]


def test_one_model_describes_all_problems() -> None:
    """FastAPI builds each model anew for each route, at start."""
    app = FastAPI(responses=problem_responses([401, 409, 429]))
    example = {"content": {MEDIA_TYPE: {"example": {"title": "Mine"}}}}
    app.add_api_route("/mine", read, openapi_extra={"responses": {"409": example}})
    app.add_api_route("/own", read, responses={429: {"description": "of the route"}})

    fields: list[Any] = [getattr(route, "response_fields", {}) for route in app.routes]
    paths = app.openapi()["paths"]

    assert sum(map(len, fields)) == 1
    schema = {"$ref": "#/components/schemas/Problem"}
    for path, status in (("/mine", "401"), ("/mine", "429"), ("/own", "401"), ("/own", "409")):
        content = paths[path]["get"]["responses"][status]["content"]
        assert content == {MEDIA_TYPE: {"schema": schema}}
    found = paths["/mine"]["get"]["responses"]["409"]["content"]
    assert found == {MEDIA_TYPE: {"schema": schema, "example": {"title": "Mine"}}}


def test_the_document_that_is_sent_names_what_can_happen(probe_client: ProbeClient) -> None:
    operations = probe_client().get("/openapi.json").json()["paths"]["/probe/items"]

    method = {name for name, place in LAYERS.items() if "POST" in (place.methods or ("POST",))}
    possible = {str(status) for name in method for status in LAYERS[name].statuses}
    # It exists, so no 405; and its path names nothing that might not.
    expected = (possible | {"422"}) - {"404", "405"}
    assert operations["post"]["responses"].keys() - {"200"} == expected


@pytest.mark.skipif("error_handler" not in LAYERS, reason="nothing gives exceptions a format")
def test_an_exception_that_no_request_of_an_operation_raises_is_left_out(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """A 404 is for what a path names, a 422 for input; a route may declare more."""
    app = probe_app()
    own: Any = {404: {"description": "of the route"}}
    app.add_api_route("/own", lambda: None, responses=own)
    app.add_api_route("/hidden", hidden)

    paths = probe_client(app=app).get("/openapi.json").json()["paths"]

    found = {
        f"{method} {path}": {"404", "405", "422"} & operation["responses"].keys()
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert found["get /probe/ok"] == set()
    assert found["get /probe/items/{item_id}"] == {"404", "422"}
    assert found["post /probe/items"] == {"422"}
    assert found["get /own"] == {"404"}
    assert found["get /hidden"] == {"422"}


BEARER: Final = HTTPBearer(scheme_name="bearer")
OAUTH: Final = OAuth2PasswordBearer("/token", scheme_name="oauth")
KEY: Final = APIKeyHeader(name="X-API-Key", scheme_name="key")
SAME_KEY: Final = APIKeyHeader(name="x-api-key", scheme_name="same_key")
IN_QUERY: Final = APIKeyQuery(name="X-API-Key", scheme_name="in_query")
PARTNER: Final = APIKeyHeader(name="X-Partner", scheme_name="partner")


def operation_under(layer: Layer, **route: Any) -> Any:
    """Return what the document says of a route inside of one layer."""
    app = FastAPI()
    app.add_api_route("/", route.pop("endpoint", read), **route)

    def layers_at(*_: object) -> dict[str, Layer | None]:
        return {"gate": layer, "unseen": None}

    policies: Any = SimpleNamespace(layers_at=layers_at)
    narrow_openapi(app, policies)
    return app.openapi()["paths"]["/"]["get"]


@pytest.mark.parametrize(
    ("schemes", "own", "expected"),
    [
        ([BEARER], [], ["bearer"]),
        ([BEARER], [PARTNER], ["bearer partner"]),
        ([BEARER], [BEARER, PARTNER], ["bearer partner"]),
        ([BEARER, KEY], [PARTNER], ["bearer partner", "key partner"]),
        ([KEY], [IN_QUERY], ["in_query key"]),
        ([KEY], [OAUTH], ["key oauth"]),
        # One header can't hold two credentials.
        ([BEARER], [OAUTH], ["oauth"]),
        ([BEARER], [BEARER, OAUTH], ["bearer", "oauth"]),
        ([KEY], [SAME_KEY], ["same_key"]),
        # Two kinds of credentials are refused.
        ([BEARER, KEY], [OAUTH], ["oauth"]),
    ],
)
def test_the_credential_of_a_layer_is_needed_beside_those_of_a_route(
    schemes: list[SecurityBase], own: list[Any], expected: list[str]
) -> None:
    layer = Layer(FastAPI())
    layer.security, layer.needs_security = schemes, True

    operation = operation_under(layer, dependencies=[Security(scheme) for scheme in own])

    assert [" ".join(sorted(item)) for item in operation["security"]] == expected


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([], None),
        ([PARTNER], [{"partner": []}]),
        ([BEARER, PARTNER], [{"bearer": [], "partner": []}]),
    ],
)
def test_a_layer_that_needs_no_credential_asks_for_none(own: list[Any], expected: Any) -> None:
    """Unless the route reads what the layer found."""
    layer = Layer(FastAPI())
    layer.security = [BEARER]

    operation = operation_under(layer, dependencies=[Security(scheme) for scheme in own])

    assert operation.get("security") == expected


def zoned(x_zone: Annotated[str | None, Header()] = None) -> str | None:
    return x_zone


def test_the_headers_that_a_layer_reads_are_parameters() -> None:
    """Once, if the route declares one too; names of headers have no case."""
    layer = Layer(FastAPI())
    layer.openapi_headers = {"X-Zone": {"required": True}, "X-Shard": {}}

    listed = (
        operation_under(layer)["parameters"],
        operation_under(layer, endpoint=zoned)["parameters"],
    )

    found = [[(it["in"], it["name"], it["required"]) for it in items] for items in listed]
    query, shard = ("query", "thing", False), ("header", "X-Shard", False)
    assert found[0] == [query, ("header", "X-Zone", True), shard]
    assert found[1] == [("header", "x-zone", True), shard]


@pytest.mark.parametrize("is_custom", [False, True])
def test_what_a_callback_refers_to_is_there(
    is_custom: bool,  # noqa: FBT001
    probe_app: ProbeApp,
    probe_client: ProbeClient,
) -> None:
    app, callbacks = probe_app(), APIRouter()
    callbacks.add_api_route("{$url}/paid/{thing}", read, methods=["POST"])
    app.post("/invoices/{thing}", callbacks=callbacks.routes)(read)
    if is_custom:
        app.openapi = lambda: get_openapi(  # type: ignore[method-assign]
            title="Mine", version="1", routes=app.routes
        )

    document = probe_client(app=app).get("/openapi.json").text

    named = {*re.findall(r'"#/components/schemas/(\w+)"', document)}
    assert "HTTPValidationError" in named
    assert named <= json.loads(document)["components"]["schemas"].keys()


RESPONSES: Final = {"200": {"description": "ok"}}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"paths": None},
        {"paths": {}, "webhooks": {"new": {"post": {"responses": RESPONSES}}}},
        {"paths": {"/probe/ok": None}},
        {"paths": {"/probe/ok": {"$ref": "#/components/pathItems/Ok"}}},
        {"paths": {"/probe/ok": {"summary": "x", "parameters": [], "servers": []}}},
        {"paths": {"/probe/ok": {"get": None}}},
        {"paths": {"/probe/ok": {"get": {}}}, "components": None},
        {"paths": {"/probe/ok": {"get": {"responses": None}}}},
        {"paths": {"/probe/ok": {"get": {}}}, "components": {"securitySchemes": None}},
        {"paths": {"/probe/ok": {"get": {"responses": RESPONSES}}}},
        {"paths": {"/probe/items": {"post": {"security": None, "parameters": None}}}},
        {"paths": {"/probe/items": {"post": {"parameters": [{"$ref": "#/components/x/Id"}]}}}},
    ],
)
def test_a_document_of_yours_may_have_what_openapi_allows(
    document: dict[str, Any], probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    # With credentials, which are put into the document.
    app = probe_app(authentication_required=True, authentication_exempt=["/openapi.json"])
    app.openapi = lambda: deepcopy(document)  # type: ignore[method-assign]

    response = probe_client(app=app).get("/openapi.json")

    assert response.status_code == 200
    assert {*document} - {"components"} <= response.json().keys()


@pytest.mark.skipif(not STATUSES, reason="no layer here responds")
def test_the_command_prints_what_is_sent(
    probe_app: ProbeApp,
    probe_client: ProbeClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("app.main.app", probe_app())
    monkeypatch.setattr(sys, "argv", ["app.middleware", "openapi"])

    assert main({}) == 0

    printed = json.loads(capsys.readouterr().out)
    assert printed == probe_client().get("/openapi.json").json()


def test_what_your_code_prints_is_no_part_of_it(
    probe_app: ProbeApp, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Talking(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name != "app":
                raise AttributeError(name)
            sys.stdout.write("mine\n")
            return probe_app()

    monkeypatch.setitem(sys.modules, "app.main", Talking("app.main"))
    monkeypatch.setattr(sys, "argv", ["app.middleware", "openapi"])

    assert main({}) == 0

    printed = capsys.readouterr()
    assert json.loads(printed.out)
    assert printed.err == "mine\n"
