"""Error handler: an exception becomes an answer that clients can parse."""

import asyncio
import json
import logging
import re
from datetime import date
from decimal import Decimal
from enum import Enum
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final

import pytest
from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import create_model
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import WebSocketDenialResponse
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from app.middleware import innermost, outermost
from app.middleware.core.check import faults
from app.middleware.core.exchange import Exchange, Place
from app.middleware.core.layer import Layer
from app.middleware.order import LAYERS

from .asgi import CutOff, Dialogue, Unavailable
from .conftest import WS, LogLines, ProbeApp, ProbeClient
from .probe import router
from .refusals import ORIGIN, Answer

PROBLEM = "application/problem+json"


def test_an_exception_becomes_a_problem(probe_client: ProbeClient) -> None:
    response = probe_client().get("/probe/boom")

    assert response.status_code == 500
    assert response.headers["content-type"] == PROBLEM
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["title"] == "Internal Server Error"
    assert "secret" not in response.text


def test_the_traceback_is_logged_once(
    probe_client: ProbeClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        probe_client().get("/probe/boom")

    (record,) = [record for record in caplog.records if record.exc_info]
    assert "the secret of the exception" in str(record.exc_info)


class MuteError(Exception):
    """An exception whose text raises another, like `ResponseValidationError(None)`."""

    def __str__(self) -> str:
        raise KeyError(1)


def test_an_exception_without_a_text_becomes_a_problem_too(
    probe_app: ProbeApp,
    probe_client: ProbeClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A span that is recorded needs the text."""
    app, span = probe_app(), SimpleNamespace(record_exception=str)
    monkeypatch.setattr("app.middleware.error_handler.get_current_span", lambda: span)

    @app.get("/mute")
    async def mute() -> None:
        raise MuteError

    response = probe_client(app=app).get("/mute")

    assert response.status_code == 500
    assert response.headers["content-type"] == PROBLEM
    assert [record.getMessage() for record in caplog.records] == ["unhandled exception"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nowhere", 404), ("/probe/raise/403", 403), ("/probe/raise/418", 418)],
)
def test_http_exceptions_have_the_same_shape(
    path: str, status: int, probe_client: ProbeClient
) -> None:
    response = probe_client().get(path)

    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    assert response.json()["status"] == status


@pytest.mark.parametrize(
    ("status", "title"),
    [(404, "Not Found"), (413, "Content Too Large"), (499, "Error")],
)
def test_the_title_is_the_phrase_whatever_the_version_of_python(
    status: int, title: str, probe_client: ProbeClient
) -> None:
    response = probe_client().get(f"/probe/raise/{status}")

    assert response.json()["title"] == title


@pytest.mark.parametrize("of", [Exception, 500])
def test_a_handler_that_would_never_run_is_refused(of: Any, probe_app: ProbeApp) -> None:
    app = probe_app()
    app.add_exception_handler(418, own_handler)

    assert faults(app) == []
    app.add_exception_handler(of, own_handler)

    (fault,) = faults(app)
    assert fault.startswith(f"The exception handler of {getattr(of, '__name__', of)} never runs")


def mounting(app: FastAPI) -> FastAPI:
    """Mount an app in `app` that has its handlers, and no layers."""
    mounted = Starlette(exception_handlers=app.exception_handlers)
    mounted.mount("/", router)
    app.mount("/mounted", mounted)
    return app


@pytest.mark.parametrize("place", ["mount", "host", "mounts"])
@pytest.mark.parametrize("kind", [FastAPI, Starlette])
def test_a_mounted_app_with_the_handlers_crashes_as_the_service(
    kind: Any,
    place: str,
    probe_app: ProbeApp,
    probe_client: ProbeClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Starlette gives each app a layer of its own that responds to what it raises."""
    app = probe_app()
    mounted = kind(exception_handlers=app.exception_handlers)
    mounted.mount("/mounted", router)
    match place:
        case "mount":
            app.mount("/", mounted)
        case "host":
            app.host("localhost", mounted)
        case _:
            between = Starlette(exception_handlers=app.exception_handlers)
            between.mount("/", mounted)
            app.mount("/", between)

    response = probe_client(app=app).get("/mounted/probe/boom")

    assert response.status_code == 500
    assert response.headers["content-type"] == PROBLEM
    assert [record.getMessage() for record in caplog.records] == ["unhandled exception"]


class Crashing(Layer):
    """Raises for each response, that of the error handler too."""

    def head(self, exchange: Exchange, message: Message) -> None:  # noqa: ARG002
        raise RuntimeError


def test_what_is_raised_outside_of_the_layer_is_left_to_what_is_there(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = mounting(probe_app(own=[outermost(Middleware(Crashing))]))
    app.title = "Around"  # a storage keeps by title what layers count
    around = probe_app()
    around.mount("/around", app)

    for path in ("/probe/ok", "/mounted/probe/ok", "/mounted/probe/boom"):
        alone = probe_client(app=app).get(path)
        inside = probe_client(app=around).get(f"/around{path}")

        assert (alone.status_code, alone.text) == (500, "Internal Server Error")
        assert (inside.status_code, inside.headers["content-type"]) == (500, PROBLEM)


async def own_handler(_: Request, __: Exception) -> Response:
    return Response()


def test_what_a_layer_raises_has_the_same_shape(probe_client: ProbeClient) -> None:
    response = probe_client(own=[innermost(Middleware(Unavailable))]).get("/probe/ok")

    assert response.status_code == 503
    assert response.headers["content-type"] == PROBLEM
    assert response.headers["retry-after"] == "7"
    assert response.json()["detail"] == "closed"


@pytest.mark.parametrize("status", [204, 205, 304])
def test_an_answer_that_has_no_body_gets_none(status: int, probe_client: ProbeClient) -> None:
    response = probe_client().get(f"/probe/raise/{status}")

    assert response.status_code == status
    assert response.content == b""
    assert "content-type" not in response.headers


def test_a_wrong_method_names_the_right_ones(probe_client: ProbeClient) -> None:
    response = probe_client().delete("/probe/ok")

    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    assert response.headers["content-type"] == PROBLEM


def test_a_wrong_body_is_explained_and_not_echoed(probe_client: ProbeClient) -> None:
    response = probe_client().post("/probe/items", json={"name": {"password": "hunter2"}})

    assert response.status_code == 422
    problem = response.json()
    assert problem["errors"][0]["loc"] == ["body", "name"]
    assert set(problem["errors"][0]) == {"loc", "msg", "type"}
    assert "hunter2" not in response.text


@pytest.mark.parametrize(
    ("errors", "shown"),
    [
        (
            [{"loc": ("body", "name"), "msg": "taken"}],
            [{"loc": ["body", "name"], "msg": "taken", "type": "value_error"}],
        ),
        (
            [{"type": "taken"}, {}],
            [
                {"loc": [], "msg": "", "type": "taken"},
                {"loc": [], "msg": "", "type": "value_error"},
            ],
        ),
        (["taken"], [{"loc": [], "msg": "taken", "type": "value_error"}]),
        ("taken", [{"loc": [], "msg": "taken", "type": "value_error"}]),
        (ValueError("taken"), [{"loc": [], "msg": "taken", "type": "value_error"}]),
        ((), []),
    ],
)
def test_errors_of_the_app_have_the_declared_form(
    errors: Any, shown: list[Any], probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = probe_app()

    @app.get("/checked")
    async def checked() -> None:
        raise RequestValidationError(errors)

    response = probe_client(app=app).get("/checked")

    assert response.status_code == 422
    assert response.json()["errors"] == shown


def test_a_detail_of_several_members_is_kept(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = probe_app()

    @app.get("/sold-out")
    def sold_out() -> None:
        raise HTTPException(409, {"detail": "sold out", "item": "onion", "status": 1})

    problem = probe_client(app=app).get("/sold-out").json()

    assert (problem["detail"], problem["item"], problem["status"]) == ("sold out", "onion", 409)


def test_a_text_that_utf_8_can_not_hold_is_answered(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = probe_app()

    @app.get("/odd")
    async def odd() -> None:
        raise HTTPException(404, "no \ud800")

    problem = probe_client(app=app).get("/odd").json()

    assert problem["detail"] == "no ?"


def test_a_client_that_goes_away_is_answered_nothing(probe_app: ProbeApp) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": "100"}

    dialogue = CutOff("POST", "/probe/items", b"{", headers=headers).run(probe_app())

    assert dialogue.sent == []


@pytest.mark.parametrize("path", ["/probe/broken-stream", "/mounted/probe/broken-stream"])
def test_a_stream_that_breaks_is_cut(path: str, probe_app: ProbeApp) -> None:
    """The exception goes on to the server, or a client would take the half for the whole."""
    dialogue = Dialogue("GET", path, headers={"Accept-Encoding": "identity"})

    with pytest.raises(RuntimeError, match="the stream broke"):
        dialogue.run(mounting(probe_app()))

    assert dialogue.status == 200
    assert dialogue.body == b"first\n"
    assert dialogue.sent[-1]["more_body"]


def test_what_is_raised_again_is_left_to_the_server_to_log(
    probe_client: ProbeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs whatever reaches it, and one fault is one incident."""
    probe_client().get("/probe/broken-stream")

    assert caplog.records == []


@pytest.mark.parametrize("path", ["/probe/slow?seconds=60", "/probe/slow-sync?seconds=0.3"])
def test_a_request_that_the_server_gives_up_is_answered_503(path: str, probe_app: ProbeApp) -> None:
    """A server that stops waits for a while; what takes longer would get its bare 500."""
    dialogue = Dialogue("GET", path).cancel(probe_app())

    assert dialogue.status == 503
    assert dialogue.headers["retry-after"] == "1"
    assert json.loads(dialogue.body)["status"] == 503


@pytest.mark.parametrize("path", ["/probe/slow?seconds=60", "/probe/slow-sync?seconds=0.3"])
def test_a_request_that_the_server_gives_up_with_its_client_is_answered_nothing(
    path: str, probe_app: ProbeApp, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some servers cancel the request of a client that has left."""
    dialogue = CutOff("GET", path)
    dialogue.chunks.clear()

    dialogue.cancel(probe_app())

    assert dialogue.sent == []
    assert '"level":"error"' not in capsys.readouterr().out


@pytest.mark.parametrize("path", ["/peer", "/job"])
def test_what_the_endpoint_lost_is_no_end_of_the_request(
    path: str, probe_app: ProbeApp, probe_client: ProbeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the websocket of another client, nor a task that was cancelled."""
    app = probe_app()

    @app.get("/peer")
    async def peer() -> None:
        raise WebSocketDisconnect(1006)

    @app.get("/job")
    async def job() -> None:
        task = asyncio.ensure_future(asyncio.sleep(5))
        task.cancel()
        await task

    response = probe_client(app=app).get(path)

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert [record.getMessage() for record in caplog.records] == ["unhandled exception"]


@pytest.mark.parametrize("path", ["/probe/boom", "/mounted/probe/boom"])
def test_with_debug_on_the_traceback_is_shown(
    path: str, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    response = probe_client(app=mounting(probe_app(debug=True))).get(path)

    assert response.status_code == 500
    assert "the secret of the exception" in response.text


class RefusingLate(Layer):
    """Raises when all inside has returned."""

    async def around(self, exchange: Exchange, place: Place) -> None:  # noqa: ARG002
        await place.proceed()
        raise HTTPException(403)


@pytest.mark.parametrize("path", [f"{WS}-boom", f"{WS}-late-refusal", f"{WS}-left"])
def test_a_websocket_that_crashes_is_closed_with_1011(
    path: str, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = probe_app(own=[innermost(Middleware(RefusingLate))])

    @app.websocket("/probe/ws-left")
    async def leave(websocket: WebSocket) -> None:
        await websocket.accept()

    client = probe_client(app=app)

    with (
        pytest.raises(WebSocketDisconnect) as closed,
        client.websocket_connect(path) as websocket,
    ):
        websocket.receive_text()

    assert closed.value.code == 1011


def test_a_handshake_that_crashes_is_answered_500(probe_client: ProbeClient) -> None:
    client = probe_client()

    with (
        pytest.raises(WebSocketDenialResponse) as denial,
        client.websocket_connect(f"{WS}-boom-early"),
    ):
        pass

    assert denial.value.status_code == 500
    assert "secret" not in denial.value.text


def test_a_wrong_handshake_is_explained_and_not_echoed(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = probe_app()

    @app.websocket("/room")
    async def room(websocket: WebSocket, number: int) -> None:
        await websocket.accept(str(number))

    with (
        pytest.raises(WebSocketDisconnect) as closed,
        probe_client(app=app).websocket_connect("ws://localhost/room?number=hunter2"),
    ):
        pass

    assert closed.value.code == 1008
    assert closed.value.reason.startswith("The handshake is invalid")
    assert "hunter2" not in closed.value.reason


def test_a_websocket_client_that_goes_away_is_no_error(
    probe_client: ProbeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The endpoint waits for a text and gets the end instead."""
    with caplog.at_level(logging.ERROR), probe_client().websocket_connect(WS):
        pass

    assert caplog.records == []


class Code(str, Enum):  # noqa: UP042 - as packages have it, whose `str` is not its value
    BAD = "LOGIN_BAD_CREDENTIALS"


CIRCLE: Final[dict[str, Any]] = {}
CIRCLE["itself"] = CIRCLE
ERRORS: Final = [{"loc": ["body"], "msg": "bad"}]
DETAILS: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "a list": (ERRORS, {"detail": "Bad Request", "details": ERRORS}),
    "a member of an enumeration": (Code.BAD, {"detail": "LOGIN_BAD_CREDENTIALS"}),
    "one inside of a mapping": (
        {"detail": Code.BAD, "code": Code.BAD},
        {"detail": "LOGIN_BAD_CREDENTIALS", "code": "LOGIN_BAD_CREDENTIALS"},
    ),
    "a list inside of a mapping": (
        {"detail": ERRORS},
        {"detail": "Bad Request", "details": ERRORS},
    ),
    "a number": (7, {"detail": "Bad Request", "details": 7}),
    "no number": (float("nan"), {"detail": "Bad Request", "details": None}),
    "none inside of a mapping": (
        {"detail": "late", "seconds": [float("inf"), 1.5], "share": Decimal("nan")},
        {"detail": "late", "seconds": [None, 1.5], "share": None},
    ),
    "an exception": (ValueError("no onion"), {"detail": "no onion"}),
    "an exception inside of a mapping": (
        {"detail": ValueError("no onion"), "causes": [KeyError("onion")]},
        {"detail": "no onion", "causes": ["'onion'"]},
    ),
    "a type and a title": (
        {"type": "https://onions.example/sold-out", "title": "Sold out", "code": 7},
        {
            "type": "https://onions.example/sold-out",
            "title": "Sold out",
            "detail": "Bad Request",
            "code": 7,
        },
    ),
    "a code as type": (
        {"type": Code.BAD, "detail": "no"},
        {"type": "LOGIN_BAD_CREDENTIALS", "detail": "no"},
    ),
    "a type and a title that are no texts": (
        {"type": 7, "title": None},
        {"detail": "Bad Request", "details": {"type": 7, "title": None}},
    ),
    "a status of its own": (
        {"detail": "no", "status": "sold_out", "item": 7},
        {"detail": "no", "item": 7, "details": {"status": "sold_out"}},
    ),
    "a status of its own and details": (
        {"status": "sold_out", "details": [7]},
        {"detail": "Bad Request", "details": {"status": "sold_out", "details": [7]}},
    ),
    "the status of the response": ({"status": 400}, {"detail": "Bad Request"}),
    "a date": (
        {"detail": "late", "day": date(2026, 1, 2)},
        {"detail": "late", "day": "2026-01-02"},
    ),
    "a circle": (CIRCLE, {"detail": "{'itself': {...}}"}),
    "nothing": (None, {"detail": "Bad Request"}),
}


@pytest.mark.parametrize(("detail", "members"), DETAILS.values(), ids=DETAILS)
def test_a_detail_keeps_its_shape(
    detail: Any, members: dict[str, Any], probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = probe_app()

    @app.get("/detail")
    async def refuse() -> None:
        raise HTTPException(400, detail)

    response = probe_client(app=app).get("/detail")

    problem = json.loads(response.text, parse_constant=pytest.fail)
    problem.pop("request_id", None)
    assert problem == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        **members,
    }


@pytest.mark.parametrize(
    "decorator",
    [
        name
        for name in ("request_id", "access_log", "metrics", "timing", "security_headers", "cors")
        if name in LAYERS
    ],
)
def test_the_500_is_decorated(
    decorator: str, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    module = import_module(f".test_{decorator}", __package__)
    client = probe_client(**getattr(module, "SETTINGS", {}))
    log_lines()

    response = client.get("/probe/boom", headers={"Origin": ORIGIN})

    assert response.status_code == 500
    module.decorated(Answer(response=response, lines=log_lines(), client=client))


def test_openapi_declares_the_shape(probe_app: ProbeApp) -> None:
    document = probe_app().openapi()
    responses: dict[str, Any] = document["paths"]["/probe/items"]["post"]["responses"]

    assert {"404", "422", "500"} <= responses.keys()
    for status in ("404", "422", "500"):
        content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        assert responses[status]["content"] == content
    schemas = document["components"]["schemas"]
    errors = schemas["Problem"]["properties"]["errors"]["anyOf"]
    assert errors[0]["items"] == {"$ref": "#/components/schemas/InputError"}


def test_a_model_of_the_same_name_leaves_no_reference_dangling(probe_app: ProbeApp) -> None:
    app = probe_app()
    mine = create_model("Problem", solution=(str, ...))
    app.add_api_route("/riddle", lambda: None, response_model=mine)

    document = app.openapi()

    names = re.findall(r'"#/components/schemas/(.+?)"', json.dumps(document))
    assert {*names} <= document["components"]["schemas"].keys()
    (content,) = document["paths"]["/riddle"]["get"]["responses"]["500"]["content"].values()
    schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    assert {"request_id", "layer"} <= schema["properties"].keys()
