"""Authentication: a good credential names the user, a wrong one is refused."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import FrozenInstanceError
from importlib import import_module
from itertools import permutations
from typing import Annotated, Any, Final

import pytest
from fastapi import FastAPI, Request, Security, WebSocket
from fastapi.security import APIKeyHeader
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.testclient import WebSocketDenialResponse

from app.middleware import Policy, StackSettings
from app.middleware.authentication import (
    AuthenticationMiddleware,
    CurrentUser,
    User,
    current_user,
)
from app.middleware.core.check import faults, policies_of
from app.middleware.core.exchange import Exchange
from app.middleware.core.routes import route_of
from app.middleware.order import LAYERS
from app.middleware.user import CannotCheckError

from .conftest import LogLines, ProbeApp, ProbeClient
from .refusals import ORIGIN, Refusal
from .users import BAD, KINDS, SETTINGS, Kind, headers

REFUSAL = Refusal(status=401, settings=SETTINGS, headers=BAD)

GATES: Final = [
    name
    for name in (
        "trusted_host",
        "https_redirect",
        "ip_filter",
        "maintenance",
        "client_version",
        "required_headers",
        "cross_origin",
    )
    if name in LAYERS
]

EXEMPT: Final = StackSettings.model_fields["authentication_exempt"].default
# Those of FastAPI itself.
PAGES: Final[list[Any]] = FastAPI().routes

UserApp = Callable[..., FastAPI]
UserClient = Callable[..., TestClient]


@pytest.fixture
def user_app(probe_app: ProbeApp) -> UserApp:
    """Build an app with endpoints that ask who is calling."""

    def build(**settings: Any) -> FastAPI:
        app = probe_app(**{**SETTINGS, **settings})

        @app.get("/me")
        async def me(user: CurrentUser) -> str:
            return user.id

        @app.get("/anybody")
        async def anybody(request: Request) -> str | None:
            user: User | None = request.state.user
            return user.id if user else None

        @app.get("/orders")
        def orders(user: Annotated[User, Security(current_user, scopes=["orders:read"])]) -> str:
            return user.id

        @app.websocket("/ws")
        async def ws(websocket: WebSocket, user: CurrentUser) -> None:
            await websocket.accept()
            await websocket.send_text(user.id)
            await websocket.close()

        return app

    return build


@pytest.fixture
def user_client(user_app: UserApp, probe_client: ProbeClient) -> UserClient:
    def start(root_path: str = "", **settings: Any) -> TestClient:
        return probe_client(app=user_app(**settings), root_path=root_path)

    return start


def checked_by(check: Callable[[], Awaitable[User]], app: FastAPI) -> FastAPI:
    """Have a credential in each request, checked in another way."""
    classes: list[Any] = [item.cls for item in app.user_middleware]
    layer: Any = app.user_middleware[classes.index(AuthenticationMiddleware)]
    known = layer.kwargs["schemes"][0]

    class Checked(type(known)):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def is_used(self, _: Exchange) -> bool:
            return True

        def user(self, _: Exchange) -> Awaitable[User]:
            return check()

    layer.kwargs["schemes"] = [Checked()]
    return app


@pytest.mark.parametrize("path", ["/me", "/anybody"])
def test_a_good_credential_names_the_user(path: str, user_client: UserClient) -> None:
    client = user_client()

    assert client.get(path, headers=headers("alice")).json() == "alice"
    assert client.get(path, headers=headers("bob")).json() == "bob"


def test_a_wrong_credential_is_refused_with_the_error(user_client: UserClient) -> None:
    """It is refused where anybody may call too: its sender thinks that it is known."""
    response = user_client().get("/anybody", headers=BAD)

    assert response.status_code == 401
    assert 'error="invalid_token", error_description="' in response.headers["www-authenticate"]
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["layer"] == "authentication"


def test_nobody_is_anonymous(user_client: UserClient) -> None:
    client = user_client()

    assert client.get("/anybody").json() is None
    response = client.get("/me")
    assert response.status_code == 401
    assert "error" not in response.headers["www-authenticate"]
    assert response.headers["cache-control"] == "no-store"


def test_a_user_is_not_carried_over(user_client: UserClient) -> None:
    client = user_client()

    client.get("/me", headers=headers("alice"))

    assert client.get("/anybody").json() is None


def test_a_credential_can_be_required(user_client: UserClient) -> None:
    client = user_client(authentication_required=True)

    response = client.get("/anybody")

    assert response.status_code == 401
    assert "error" not in response.headers["www-authenticate"]
    assert response.json()["layer"] == "authentication"
    assert client.get("/anybody", headers=headers("alice")).json() == "alice"
    assert client.get("/nowhere").status_code == 401


@pytest.mark.parametrize("setting", ["authentication_exempt", "probe_paths"])
@pytest.mark.parametrize("credential", [{}, BAD, headers("alice")], ids=["none", "bad", "good"])
@pytest.mark.parametrize("root_path", ["", "/api"])
def test_on_an_exempt_path_nothing_is_judged(
    setting: str, credential: dict[str, str], root_path: str, user_client: UserClient
) -> None:
    """A login page must work for those whose credential has expired."""
    client = user_client(root_path, authentication_required=True, **{setting: ["/anybody"]})

    response = client.get(f"{root_path}/anybody", headers=credential)

    assert response.status_code == 200
    assert response.json() is None


@pytest.mark.parametrize(
    ("setting", "status"), [("authentication_exempt", 405), ("probe_paths", 401)]
)
def test_only_get_and_head_are_probes(setting: str, status: int, user_client: UserClient) -> None:
    client = user_client(authentication_required=True, **{setting: ["/anybody"]})

    assert client.delete("/anybody").status_code == status


@pytest.mark.skipif(not EXEMPT, reason="the service is open")
def test_the_documentation_of_a_closed_service_is_open(user_client: UserClient) -> None:
    """The page that an identity provider sends a browser back to, too, without credentials."""
    client = user_client(authentication_required=True, authentication_exempt=EXEMPT)

    statuses = {route.path: client.get(route.path).status_code for route in PAGES}

    assert set(statuses.values()) == {200}, statuses


@pytest.fixture
def closed_app(probe_app: ProbeApp) -> UserApp:
    """Build an app that is closed but for what is exempt, with routes of many kinds."""

    def build(*exempt: str, required: bool = True) -> FastAPI:
        app = probe_app(
            **SETTINGS,
            authentication_required=required,
            authentication_exempt=exempt,
            allowed_hosts=["*.localhost"],
            routes={"POST /{name}": Policy(authentication_required=True)},
        )
        app.host("admin.localhost", Router([Route("/", PlainTextResponse("ok"))]))
        for path in ("/", "/login", "/files/{name}", "/{name}"):
            route = Route(path, PlainTextResponse("ok"), methods=["GET", "POST"])
            app.router.routes.append(route)
        app.mount("/opaque", PlainTextResponse("ok"))
        app.mount("/of/{tenant}", PlainTextResponse("ok"))
        inner = [Route("/login", PlainTextResponse("ok")), Route("/{x}", PlainTextResponse("ok"))]
        app.mount("/mounted", Starlette(routes=inner))
        return app

    return build


@pytest.mark.parametrize(
    ("request_", "exempt", "status"),
    [
        ("POST /login", "/login", 200),
        ("POST /login", "post /login", 200),
        ("POST /login", "GET /login", 401),
        ("PUT /login", "/login", 405),
        ("GET /v1/nowhere", "/v1/nowhere", 404),
        ("HEAD /opaque/x", "GET /opaque/x", 200),
        ("POST /opaque/x", "/opaque/x", 200),
        ("POST /opaque/y", "/opaque/x", 401),
        ("GET /mounted/login", "/mounted/login", 200),
        ("GET /mounted/x", "/mounted/x", 401),
        ("GET /of/a/x", "/of/a/x", 401),
        ("GET /files/x", "/files/x", 401),
        ("POST /x", "/x", 401),
    ],
)
def test_an_exempt_path_opens_no_route_with_a_parameter(
    request_: str, exempt: str, status: int, closed_app: UserApp
) -> None:
    """What such a route does for one value, it does for all; the command says the same."""
    app = closed_app(exempt)
    method, _, path = request_.partition(" ")

    response = TestClient(app, "http://a.localhost").request(method, path)

    assert response.status_code == status
    scope = {"type": "http", "method": method, "path": path, "headers": (), "app": app}
    context, policies = route_of(scope), policies_of(app)
    rows = policies.explain(scope, context) if policies and context else []
    shown = [row["value"] for row in rows if row["name"] == "authentication_required"]
    assert shown == ([status == 401] if context else [])


@pytest.mark.parametrize("path", ["/files/x", "/of/a/x", "/mounted/x"])
def test_an_exempt_path_that_opens_nothing_ends_the_start(path: str, closed_app: UserApp) -> None:
    (sentence,) = faults(closed_app(path, "/nowhere/at/all"))

    assert sentence.startswith(f"AUTHENTICATION_EXEMPT has {path}, which /")
    (app := closed_app(path)).router.routes.insert(0, Route(path, PlainTextResponse("ok")))
    assert faults(app) == []


@pytest.mark.skipif(not EXEMPT, reason="the service is open")
@pytest.mark.parametrize("required", [True, False])
def test_the_pages_of_a_closed_service_open_no_other_route(
    *, required: bool, closed_app: UserApp
) -> None:
    app = closed_app(*EXEMPT, required=required)
    paths = [route.path for route in PAGES if route.path.count("/") == 1]
    client = TestClient(app, "http://a.localhost")

    assert {client.get(path).status_code for path in paths} == {200}
    assert {client.post(path).status_code for path in paths} == {401}
    if required:
        assert client.get("/").status_code == 200
        assert client.post("/").status_code == 401
        assert client.post("/", headers={"Host": "admin.localhost"}).status_code == 401
        app.router.routes = [it for it in app.routes if getattr(it, "path", "") not in paths]
        assert {client.get(path).status_code for path in paths} == {401}


def test_the_default_of_exempt_paths_may_name_what_is_not_there(probe_app: ProbeApp) -> None:
    app = probe_app(**SETTINGS)
    app.router.routes = []
    app.add_api_route("/{name}", lambda: None)

    assert faults(app) == []


def test_exempt_paths_are_exact(user_client: UserClient) -> None:
    client = user_client(authentication_required=True, authentication_exempt=["/any"])

    assert client.get("/anybody").status_code == 401
    assert client.get("/any/").status_code == 401


def test_only_a_path_that_may_be_rejected_declares_401(user_client: UserClient) -> None:
    client = user_client(authentication_exempt=["/probe/ok"])

    paths = client.get("/openapi.json").json()["paths"]

    assert "401" not in paths["/probe/ok"]["get"]["responses"]
    assert "401" in paths["/probe/varied"]["get"]["responses"]


def test_what_a_user_is_answered_is_not_stored(user_client: UserClient) -> None:
    client = user_client()

    private = client.get("/anybody", headers=headers("alice"))
    public = client.get("/anybody")

    assert private.headers["cache-control"] == "no-store"
    assert "cache-control" not in public.headers


def test_what_a_user_is_answered_loses_nothing(user_client: UserClient) -> None:
    response = user_client().get("/probe/headers?name=X-Order&value=7", headers=headers("alice"))

    assert response.headers["x-order"] == "7"
    assert response.headers["content-type"].startswith("text/plain")
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/probe/ok", "/probe/headers?name=Cache-Control&value=max-age=60"]
)
def test_what_a_user_is_answered_inside_a_mounted_app_is_not_stored(
    path: str, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """Its layers let the path be, those around it don't."""
    app = probe_app(**SETTINGS)
    mounted = probe_app(**SETTINGS, authentication_exempt=["/probe/ok", "/probe/headers"])
    mounted.title = "Mounted"
    app.mount("/mounted", mounted)

    response = probe_client(app=app).get("/mounted" + path, headers=headers("alice"))

    direct = probe_client(**SETTINGS).get(path, headers=headers("alice"))
    for name in ("cache-control", "vary"):
        found, expected = ({*it.headers.get(name, "").split(", ")} for it in (response, direct))
        assert found == expected


def test_an_endpoint_decides_about_its_own_cache_control(user_client: UserClient) -> None:
    response = user_client().get(
        "/probe/headers?name=Cache-Control&value=private", headers=headers("alice")
    )

    assert response.headers.get_list("cache-control") == ["private"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_stored_is_kept_apart_by_the_credential(
    kind: Kind, user_client: UserClient
) -> None:
    """A stored response to nobody answers everybody, unless Vary names it (RFC 9111, 4.1)."""
    client, path = user_client(), "/probe/headers?name=Cache-Control&value=public"
    sent = kind.headers("alice")
    (name,) = sent

    for response in (client.get(path), client.get(path, headers=sent)):
        assert response.headers["cache-control"] == "public"
        assert name in ", ".join(response.headers.get_list("vary")).split(", ")


def test_a_401_of_an_endpoint_is_not_stored(user_client: UserClient) -> None:
    response = user_client().get("/probe/raise/401")

    assert response.headers["cache-control"] == "no-store"


def test_a_user_without_the_scope_is_told_which(user_client: UserClient) -> None:
    response = user_client().get("/orders", headers=headers("alice"))

    assert response.status_code == 403
    challenge = response.headers["www-authenticate"]
    assert 'error="insufficient_scope", scope="orders:read"' in challenge


def test_a_websocket_knows_its_user(user_client: UserClient) -> None:
    with user_client().websocket_connect("ws://localhost/ws", headers=headers("alice")) as ws:
        assert ws.receive_text() == "alice"


@pytest.mark.parametrize("required", [True, False])
def test_a_websocket_refuses_nobody_alike(required: bool, user_client: UserClient) -> None:  # noqa: FBT001
    client = user_client(authentication_required=required)

    with (
        pytest.raises(WebSocketDenialResponse) as denial,
        client.websocket_connect("ws://localhost/ws"),
    ):
        pass

    assert denial.value.status_code == 401
    assert "www-authenticate" in denial.value.headers


def test_no_two_requests_share_what_can_be_changed(
    user_app: UserApp, probe_client: ProbeClient
) -> None:
    app = user_app()
    seen: list[str] = []

    @app.get("/mutate")
    async def mutate(user: CurrentUser) -> None:
        claims: Any = user.claims
        seen.append(repr(claims))
        with suppress(TypeError):
            claims["owner"] = True

    @app.exception_handler(HTTPException)
    async def handle(_: Request, exc: HTTPException) -> Response:
        seen.append(repr(exc.headers))
        challenge: Any = exc.headers
        challenge["X-Seen"] = "yes"
        return Response(status_code=exc.status_code)

    client = probe_client(app=app)
    for sent in (headers("alice"), None):
        for _ in range(2):
            client.get("/mutate", headers=sent)

    assert seen[0::2] == seen[1::2]


def test_a_user_can_not_be_changed() -> None:
    user = User("alice")

    with pytest.raises(FrozenInstanceError):
        setattr(user, "id", "root")  # noqa: B010 - a checker would refuse the plain form
    assert "claims" not in repr(User("alice", claims={"email": "a@example.com"}))


def test_what_can_not_be_checked_is_no_verdict(
    user_app: UserApp, probe_client: ProbeClient
) -> None:
    async def unavailable() -> User:
        msg = "Ask later."
        raise CannotCheckError(msg, retry_after=7)

    client = probe_client(app=checked_by(unavailable, user_app()))

    response = client.get("/anybody")

    assert response.status_code == 503
    assert response.headers["retry-after"] == "7"
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["detail"] == "Ask later."


@pytest.mark.skipif("error_handler" not in LAYERS, reason="that layer shapes errors")
def test_a_fault_while_checking_has_the_one_shape(
    user_app: UserApp, probe_client: ProbeClient
) -> None:
    async def broken() -> User:
        msg = "the secret of the check"
        raise RuntimeError(msg)

    response = probe_client(app=checked_by(broken, user_app())).get("/anybody")

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text


@pytest.mark.skipif("timeout" not in LAYERS, reason="that layer bounds requests")
def test_a_check_that_hangs_is_bounded(user_app: UserApp, probe_client: ProbeClient) -> None:
    async def hanging() -> User:
        await asyncio.sleep(0.5)
        return User("late")

    app = checked_by(hanging, user_app(request_timeout=0.05))

    assert probe_client(app=app).get("/anybody").status_code == 504


@pytest.mark.parametrize("gate", GATES)
def test_no_credential_is_judged_where_a_gate_refuses(gate: str, probe_client: ProbeClient) -> None:
    """Who may not come in learns nothing about credentials, and costs nothing."""
    refusal: Refusal = import_module(f".test_{gate}", __package__).REFUSAL
    client = probe_client(
        base_url=refusal.base_url,
        client_host=refusal.client_host,
        **{**SETTINGS, **refusal.settings},
    )
    if refusal.prepare is not None:
        refusal.prepare(client)

    response = client.request(
        refusal.method,
        refusal.path,
        # The last kind is the one that browsers send by themselves, where there is one.
        headers={**KINDS[-1].bad, **refusal.headers},
        **refusal.request,
    )

    assert response.status_code == refusal.status
    assert "www-authenticate" not in response.headers


@pytest.mark.skipif("access_log" not in LAYERS, reason="that layer writes the line")
def test_the_line_names_the_user(user_client: UserClient, log_lines: LogLines) -> None:
    client = user_client()
    log_lines()

    client.get("/anybody", headers=headers("alice"))
    client.get("/anybody", headers=BAD)

    named, refused = [line for line in log_lines() if line["event"] == "request"]
    assert (named["status"], named["user"]) == (200, "alice")
    assert refused["status"] == 401
    assert "user" not in refused


@pytest.mark.skipif("cors" not in LAYERS, reason="that layer speaks to pages")
def test_a_page_can_read_the_challenge(user_client: UserClient) -> None:
    client = user_client(cors_allow_origins=[ORIGIN])

    response = client.get("/anybody", headers={"Origin": ORIGIN, **BAD})

    assert response.status_code == 401
    assert "WWW-Authenticate" in response.headers["access-control-expose-headers"]


def test_openapi_knows_who_may_call(user_app: UserApp) -> None:
    schema = user_app().openapi()

    # Items of the list are alternatives.
    names = [kind.name for kind in KINDS]
    assert [*schema["components"]["securitySchemes"]] == names
    assert schema["paths"]["/me"]["get"]["security"] == [{name: []} for name in names]
    assert schema["paths"]["/orders"]["get"]["security"] == [
        {name: ["orders:read"]} for name in names
    ]
    assert "security" not in schema["paths"]["/anybody"]["get"]
    assert "401" in schema["paths"]["/me"]["get"]["responses"]


def test_openapi_knows_what_the_layer_asks_for(user_client: UserClient) -> None:
    """Else the pages of the documentation, and generated clients, would send nothing."""
    client = user_client(
        authentication_required=True,
        authentication_exempt=["/openapi.json", "/probe/ok"],
        routes={"GET /probe/state": Policy(authentication_required=False)},
    )

    paths = client.get("/openapi.json").json()["paths"]

    needed: list[dict[str, list[str]]] = [{kind.name: []} for kind in KINDS]
    assert paths["/anybody"]["get"]["security"] == needed
    assert paths["/me"]["get"]["security"] == needed
    assert "security" not in paths["/probe/ok"]["get"]
    assert "security" not in paths["/probe/state"]["get"]


def test_openapi_asks_for_both_where_a_route_has_a_key_of_its_own(user_app: UserApp) -> None:
    """The key alone is refused by the layer."""
    settings = {"authentication_required": True, "authentication_exempt": ["/openapi.json"]}
    app = user_app(**settings, routes={"/webhook": Policy(authentication=False)})
    for path in ("/partner", "/webhook"):
        key = Security(APIKeyHeader(name="X-Partner", scheme_name="partner"))
        app.add_api_route(path, lambda: None, dependencies=[key])

    client = TestClient(app, base_url="http://localhost")
    paths = client.get("/openapi.json").json()["paths"]

    both: list[dict[str, list[str]]] = [{kind.name: [], "partner": []} for kind in KINDS]
    assert paths["/partner"]["get"]["security"] == both
    assert client.get("/partner", headers={"X-Partner": "k"}).status_code == 401
    assert paths["/webhook"]["get"]["security"] == [{"partner": []}]
    assert client.get("/webhook", headers={"X-Partner": "k"}).status_code == 200


def test_a_route_asks_for_a_credential_or_for_none(probe_client: ProbeClient) -> None:
    routes = {
        "GET /probe/ok": Policy(authentication_required=False),
        "GET /probe/state": Policy(authentication=False),
    }
    client = probe_client(**SETTINGS, authentication_required=True, routes=routes)

    assert client.get("/probe/sync").status_code == 401
    assert client.get("/probe/ok").status_code == 200
    assert client.get("/probe/state").status_code == 200
    # The requests of other methods, and other spellings, are checked.
    assert client.post("/probe/ok").status_code == 401
    assert client.get("/probe/ok/").status_code == 401
    assert client.get("//probe/ok").status_code == 401


# Several schemes

PAIRS: Final = [
    pytest.param(one, other, id=f"{one.name}-{other.name}") for one, other in permutations(KINDS, 2)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_of_credential_names_its_user(kind: Kind, user_client: UserClient) -> None:
    client = user_client(authentication_required=True)

    assert client.get("/anybody", headers=kind.headers("alice")).json() == "alice"
    assert client.get("/orders", headers=kind.headers("alice")).status_code == 403


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_of_credential_is_refused_where_it_is_wrong(
    kind: Kind, user_client: UserClient
) -> None:
    """The first challenge is the one that was tried, and the others are offered beside it."""
    client = user_client()

    response = client.get("/anybody", headers=kind.bad)
    nobody = client.get("/me")

    assert response.status_code == 401
    tried, *others = response.headers["www-authenticate"].split(", error_description=")
    assert tried.endswith(' error="invalid_token"')
    asked = nobody.headers["www-authenticate"].split(", ")
    assert len(asked) == len(KINDS)
    assert tried.partition(" ")[0] in asked
    assert [name for name in asked if name not in f"{tried}{others}"] == []


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_credentials_of_two_kinds_are_refused(
    one: Kind,
    other: Kind,
    good: bool,  # noqa: FBT001
    user_client: UserClient,
) -> None:
    """They may be those of two users."""
    second = other.headers("alice") if good else other.bad
    response = user_client().get("/anybody", headers={**one.headers("alice"), **second})

    assert response.status_code == 400
    assert response.json()["layer"] == "authentication"
    assert response.json()["detail"].startswith("Send one credential, not ")
    assert 'error="invalid_request"' in response.headers["www-authenticate"]


@pytest.mark.skipif(len(KINDS) == 1, reason="there is one")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_user_without_the_scope_is_asked_for_the_same_kind(
    kind: Kind, user_client: UserClient
) -> None:
    client = user_client()

    response = client.get("/orders", headers=kind.headers("alice"))

    assert response.status_code == 403
    challenge = response.headers["www-authenticate"]
    bad = client.get("/orders", headers=kind.bad).headers["www-authenticate"]
    assert challenge.partition(" ")[0] == bad.partition(" ")[0]
    assert 'error="insufficient_scope", scope="orders:read"' in challenge


def test_an_id_of_each_kind_is_another_account(
    user_app: UserApp, probe_client: ProbeClient
) -> None:
    """An API key may be named as a user is called."""
    app = user_app()

    @app.get("/account")
    async def account(user: CurrentUser) -> tuple[str, str]:
        return user.scheme, user.account

    client = probe_client(app=app)
    found = [client.get("/account", headers=kind.headers("alice")).json() for kind in KINDS]
    if len(KINDS) == 1:
        assert found == [["", "alice"]]
    else:
        assert found == [[kind.name, f"{kind.name}:alice"] for kind in KINDS]


@pytest.mark.skipif(
    len(KINDS) == 1 or "user_rate_limit" not in LAYERS, reason="needs two kinds and a limit"
)
def test_each_kind_spends_its_own_limit(user_client: UserClient) -> None:
    client = user_client(user_rate_limit="1/hour")

    for kind in KINDS:
        sent = [client.get("/anybody", headers=kind.headers("alice")) for _ in range(2)]
        assert [response.status_code for response in sent] == [200, 429]


@pytest.mark.skipif(
    len(KINDS) == 1 or "access_log" not in LAYERS, reason="needs two kinds and a log"
)
def test_the_line_names_the_scheme(user_client: UserClient, log_lines: LogLines) -> None:
    client = user_client()

    for kind in KINDS:
        log_lines()
        client.get("/anybody", headers=kind.headers("alice"))
        client.get("/anybody", headers=kind.bad)
        client.get("/anybody")

        named, refused, nobody = [line for line in log_lines() if line["event"] == "request"]
        assert (named["user"], named["scheme"]) == ("alice", kind.name)
        assert (refused["refused_by"], refused["scheme"]) == ("authentication", kind.name)
        assert "scheme" not in nobody


@pytest.mark.skipif("cors" not in LAYERS, reason="that layer speaks to pages")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_page_may_send_each_credential_that_is_no_cookie(
    kind: Kind, user_client: UserClient
) -> None:
    (name,) = kind.headers("alice")
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": name,
    }

    response = user_client(cors_allow_origins=[ORIGIN]).options("/me", headers=asked)

    assert response.status_code == (400 if name == "Cookie" else 200)


@pytest.mark.skipif(
    "cross_origin" not in LAYERS or not {"session"} < {kind.name for kind in KINDS},
    reason="needs two kinds, one of which is a cookie",
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_page_of_another_origin_acts_with_its_own_credential_only(
    kind: Kind, user_client: UserClient
) -> None:
    """Browsers add cookies by themselves; a token or a key is the page's."""
    sent = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    client = user_client(cross_origin_trusted=[])
    statuses = [
        client.post("/probe/items", json={"name": "onion"}, headers={**sent, **beside}).status_code
        for beside in (
            kind.headers("alice"),
            {"Cookie": "theme=dark", **kind.headers("alice")},
            {"Authorization": "Basic YWxpY2U6cHc="},
        )
    ]

    assert statuses == [403 if kind.name == "session" else 200, 403, 403]
