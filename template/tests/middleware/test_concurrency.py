"""Concurrency: requests above the limit wait for a short time, or get 503."""

import asyncio
import threading
from importlib import import_module
from typing import Any, Final

import pytest
from fastapi import BackgroundTasks, Request
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.testclient import WebSocketDenialResponse
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.middleware import Policy, outermost
from app.middleware.concurrency import ConcurrencyMiddleware, Slots
from app.middleware.core.layer import layers_from
from app.middleware.order import LAYERS

from .asgi import CutOff, Dialogue, WithoutDenial, ask_at_once
from .conftest import WS, LogLines, ProbeApp, ProbeClient, stack_settings
from .refusals import Refusal

# Gates whose refusal depends on nothing but the request and the settings.
CHEAP_GATES: Final = [
    name
    for name in (
        *("trusted_host", "https_redirect", "ip_filter", "maintenance", "client_version"),
        *("required_headers", "body_limit", "cross_origin"),
    )
    if name in LAYERS
]
ONE: Final[dict[str, Any]] = {"max_concurrency": 1, "queue_timeout": 0}
SLOW: Final = {"method": "GET", "url": "/probe/slow?seconds=0.1"}


def slots_of(app: Any) -> Slots:
    """Return the slots of the layer in the stack of `app`, which has started."""
    layers = layers_from(app.middleware_stack)
    return next(layer.slots for layer in layers if isinstance(layer, ConcurrencyMiddleware))


def take_all_slots(client: TestClient) -> None:
    """Let the service of `client` be as busy as it may be."""
    slots = slots_of(client.app)
    slots.taken = slots.most


REFUSAL = Refusal(status=503, settings=ONE, prepare=take_all_slots)


async def let_others_run() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def let_one_wait(app: Any) -> None:
    """Let others run until one waits for a slot of `app`, however long outer layers take."""
    async with asyncio.timeout(5):
        while not slots_of(app).waiting:  # noqa: ASYNC110 - the layer sets no event
            await asyncio.sleep(0)
    await let_others_run()


def statuses(responses: list[Response]) -> list[int]:
    return [response.status_code for response in responses]


def is_idle(client: TestClient) -> bool:
    slots = slots_of(client.app)
    return slots.taken == 0 and not slots.waiting


def test_no_more_are_in_work_than_the_bound(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app(max_concurrency=3, queue_timeout=5)
    at_once = [0]
    most = [0]

    @app.get("/work")
    async def work() -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        await asyncio.sleep(0.02)
        at_once[0] -= 1

    client = probe_client(app=app)
    responses = ask_at_once(client, *[{"method": "GET", "url": "/work"}] * 10)

    # Three work, three wait, and for the others there is no place.
    assert statuses(responses) == [200] * 6 + [503] * 4
    assert most == [3]
    assert is_idle(client)


def test_a_refusal_tells_when_to_come_back(probe_client: ProbeClient) -> None:
    client = probe_client(max_concurrency=1, queue_timeout=0.05)

    done, late = ask_at_once(client, SLOW, SLOW)

    assert (done.status_code, late.status_code) == (200, 503)
    assert late.headers["retry-after"] == "1"
    assert late.json()["detail"] == "The service is busy. Please try again later."
    assert client.get("/probe/ok").status_code == 200
    assert is_idle(client)


def test_who_came_first_is_next(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app(max_concurrency=1, queue_timeout=5)
    order: list[int] = []

    @app.get("/note/{number}")
    async def note(number: int) -> None:
        order.append(number)
        await asyncio.sleep(0.01)

    ask_at_once(
        probe_client(app=app),
        {"method": "GET", "url": "/note/0"},
        {"method": "GET", "url": "/note/1"},
    )

    assert order == [0, 1]


def test_without_a_queue_nobody_waits(probe_client: ProbeClient) -> None:
    assert statuses(ask_at_once(probe_client(**ONE), SLOW, SLOW, SLOW)) == [200, 503, 503]


@pytest.mark.parametrize(
    "path", ["ok", "boom", "stream", "broken-stream", "sync", "background", "raise/404"]
)
def test_a_slot_is_free_again(path: str, probe_client: ProbeClient) -> None:
    client = probe_client(**ONE)

    client.get(f"/probe/{path}")

    assert is_idle(client)


@pytest.mark.skipif("timeout" not in LAYERS, reason="that layer responds with 504")
def test_a_thread_keeps_its_slot_after_a_504(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """Work that continues counts, even after a response."""
    app = probe_app(request_timeout=0.05, **ONE)
    released = threading.Event()
    answered: list[int] = []

    @app.get("/thread")
    def thread() -> None:
        released.wait(5)

    client = probe_client(app=app)

    def watch(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])
            refused = Dialogue("GET", "/probe/ok")
            task = asyncio.ensure_future(app(refused.scope, refused.receive, refused.send))
            task.add_done_callback(lambda _: answered.append(refused.status))
            task.add_done_callback(lambda _: released.set())

    dialogue = Dialogue("GET", "/thread", watch=watch)
    assert client.portal is not None
    client.portal.call(app, dialogue.scope, dialogue.receive, dialogue.send)

    assert answered == [504, 503]
    assert is_idle(client)


def test_a_background_task_keeps_the_slot(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app(**ONE)
    in_work: list[int] = []

    @app.get("/later")
    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(lambda: in_work.append(slots_of(app).taken))

    client = probe_client(app=app)
    client.get("/later")

    assert in_work == [1]
    assert is_idle(client)


@pytest.mark.parametrize(("method", "waits"), [("GET", False), ("POST", True)])
def test_who_leaves_waits_no_longer(
    method: str,
    waits: bool,  # noqa: FBT001
    probe_app: ProbeApp,
    probe_client: ProbeClient,
) -> None:
    """Those who lose patience would run for nobody, while others are refused."""
    app = probe_app(max_concurrency=1, queue_timeout=5)
    client = probe_client(app=app)
    messages = [{"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    take_all_slots(client)

    async def leave() -> bool:
        left = Dialogue(method, "/probe/ok")
        waiting = asyncio.ensure_future(app(left.scope, receive, left.send))
        await let_one_wait(app)
        waited = bool(slots_of(app).waiting)
        slots_of(app).free()
        await asyncio.wait([waiting])
        return waited

    assert client.portal is not None
    assert client.portal.call(leave) is waits
    assert is_idle(client)


def test_what_arrived_in_the_queue_is_received(probe_app: ProbeApp) -> None:
    app = probe_app(max_concurrency=1, queue_timeout=5)
    received: list[bytes] = []

    @app.get("/body")
    async def body(request: Request) -> None:
        received.append(await request.body())

    with TestClient(app, base_url="http://localhost") as client:
        url = "/probe/slow?seconds=0.1"
        ask_at_once(
            client,
            {"method": "GET", "url": url},
            {"method": "GET", "url": "/body", "content": b"kept"},
        )

    assert received == [b"kept"]


def test_a_large_body_is_not_kept_in_the_queue(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """A GET may have one too, and a client that sends without end would fill the memory."""
    app = probe_app(max_concurrency=1, queue_timeout=5)
    client = probe_client(app=app)
    large = Dialogue("GET", "/probe/ok", b"x" * 65_536, endless=True)
    take_all_slots(client)

    async def wait() -> int:
        waiting = asyncio.ensure_future(app(large.scope, large.receive, large.send))
        await let_one_wait(app)
        received = large.received
        slots_of(app).free()
        await asyncio.wait([waiting])
        return received

    assert client.portal is not None
    assert client.portal.call(wait) == 1
    assert large.status == 200
    assert is_idle(client)


@pytest.mark.parametrize("observer", [name for name in ("access_log", "metrics") if name in LAYERS])
def test_who_leaves_the_queue_was_not_rejected(
    observer: str, probe_app: ProbeApp, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    """Rejections alarm the operator of a service that is too busy."""
    app = probe_app(max_concurrency=1, queue_timeout=5)
    client = probe_client(app=app)
    left = CutOff("GET", "/probe/ok")
    left.chunks = []
    take_all_slots(client)

    assert client.portal is not None
    client.portal.call(app, left.scope, left.receive, left.send)
    slots_of(app).free()

    assert left.sent == []
    if observer == "access_log":
        lines = [line for line in log_lines() if line["event"] == "request"]
        (line,) = [line for line in lines if line["path"] == "/probe/ok"]
        assert line["status"] == 499
        assert "refused_by" not in line
    else:
        page = client.get("/metrics").text
        assert 'status="499"' in page
        assert 'layer="concurrency"' not in page


@pytest.mark.parametrize("turn", [0, 1])
def test_who_gives_up_leaves_the_queue(
    turn: int, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """Also in the moment in which the slot is handed over."""
    app = probe_app(max_concurrency=1, queue_timeout=5)
    client = probe_client(app=app)

    take_all_slots(client)

    async def give_up() -> None:
        left = Dialogue("GET", "/probe/ok")
        waiting = asyncio.ensure_future(app(left.scope, left.receive, left.send))
        await let_one_wait(app)
        if turn:
            next(iter(slots_of(app).waiting)).add_done_callback(lambda _: waiting.cancel())
        else:
            waiting.cancel()
            await let_others_run()
        slots_of(app).free()
        await asyncio.wait([waiting])

    assert client.portal is not None
    client.portal.call(give_up)

    assert is_idle(client)
    assert client.get("/probe/ok").status_code == 200


def test_a_probe_needs_no_slot(probe_client: ProbeClient) -> None:
    client = probe_client(probe_paths=["/probe/ok"], **ONE)
    take_all_slots(client)

    assert client.get("/probe/ok").status_code == 200
    assert client.get("/probe/sync").status_code == 503


def test_an_open_websocket_takes_no_slot(probe_client: ProbeClient) -> None:
    client = probe_client(**ONE)

    with client.websocket_connect(WS) as websocket:
        assert client.get("/probe/ok").status_code == 200
        websocket.send_text("hi")

    assert is_idle(client)


def test_a_handshake_takes_one(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    """After a restart all clients connect again at the same time."""
    app = probe_app(**ONE)
    in_work: list[int] = []

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        in_work.append(slots_of(app).taken)
        await websocket.accept()
        in_work.append(slots_of(app).taken)
        await websocket.close()

    client = probe_client(app=app)
    with client.websocket_connect("ws://localhost/ws"):
        pass
    take_all_slots(client)

    assert in_work == [1, 0]
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect(WS):
        pass


def test_a_handshake_that_can_not_be_answered_is_closed_with_1013(
    probe_client: ProbeClient,
) -> None:
    client = probe_client(own=[outermost(Middleware(WithoutDenial))], **ONE)
    take_all_slots(client)

    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(WS):
        pass

    assert closed.value.code == 1013


@pytest.mark.parametrize("gate", CHEAP_GATES)
def test_a_cheap_refusal_needs_no_slot(gate: str, probe_client: ProbeClient) -> None:
    refusal: Refusal = import_module(f".test_{gate}", __package__).REFUSAL
    client = probe_client(
        base_url=refusal.base_url,
        client_host=refusal.client_host,
        **{**ONE, **refusal.settings},
    )
    take_all_slots(client)

    response = client.request(
        refusal.method, refusal.path, headers=dict(refusal.headers), **refusal.request
    )

    assert response.status_code == refusal.status
    assert "busy" not in response.text


@pytest.mark.skipif("rate_limit" not in LAYERS, reason="that layer counts")
def test_a_client_over_its_limit_needs_no_slot(probe_client: ProbeClient) -> None:
    client = probe_client(rate_limit="1/minute", **ONE)
    client.get("/probe/ok")
    take_all_slots(client)

    assert client.get("/probe/ok").status_code == 429


@pytest.mark.skipif("timeout" not in LAYERS, reason="that layer responds with 504")
def test_the_time_in_the_queue_counts(probe_client: ProbeClient) -> None:
    client = probe_client(max_concurrency=1, request_timeout=0.05)
    take_all_slots(client)

    assert client.get("/probe/ok").status_code == 504


@pytest.mark.skipif("timeout" not in LAYERS, reason="that layer ends requests")
@pytest.mark.parametrize(
    ("settings", "policy", "wrong"),
    [
        ({"queue_timeout": 30}, {}, "StackSettings"),
        ({"queue_timeout": 29, "request_timeout": 5}, {}, "StackSettings"),
        ({}, {"queue_timeout": 45}, "ROUTES['/probe/*']: QUEUE_TIMEOUT must be below"),
        ({}, {"queue_timeout": 45, "request_timeout": 60}, ""),
        ({"queue_timeout": 29}, {}, ""),
        ({"queue_timeout": 0, "request_timeout": 0.1}, {}, ""),
        ({"request_timeout": 0.5}, {}, ""),
        ({}, {"request_timeout": 0.5}, ""),
    ],
)
def test_a_queue_that_outlasts_its_requests_is_refused_at_start(
    settings: dict[str, Any],
    policy: dict[str, Any],
    wrong: str,
    probe_app: ProbeApp,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        probe_app(routes={"/probe/*": policy} if policy else None, **settings)
    except (SystemExit, ValidationError) as error:
        found = capsys.readouterr().err or str(error)
    else:
        found = ""

    assert bool(found) == bool(wrong)
    assert wrong in found


@pytest.mark.skipif("authentication" not in LAYERS, reason="that layer checks them")
def test_no_credential_is_checked_without_a_slot(probe_client: ProbeClient) -> None:
    credentials = import_module(".users", __package__)
    client = probe_client(**{**credentials.SETTINGS, **ONE})
    take_all_slots(client)

    assert client.get("/probe/ok", headers=credentials.BAD).status_code == 503


@pytest.mark.skipif("metrics" not in LAYERS, reason="that layer shows them")
def test_the_metrics_show_what_works_and_waits(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = probe_app(max_concurrency=1, queue_timeout=5)
    client = probe_client(app=app)
    pages: list[str] = []

    @app.get("/look")
    async def look() -> None:
        await let_one_wait(app)
        dialogue = Dialogue("GET", "/metrics")
        await app(dialogue.scope, dialogue.receive, dialogue.send)
        pages.append(dialogue.body.decode())

    ask_at_once(client, {"method": "GET", "url": "/look"}, SLOW)
    pages.append(client.get("/metrics").text)

    lines = [
        [
            line.replace('{policy=""}', "")
            for line in page.splitlines()
            if line.startswith("http_slots")
        ]
        for page in pages
    ]
    assert lines == [
        ["http_slots_taken 1.0", "http_slots_waited_for 1.0", "http_slots_max 1.0"],
        ["http_slots_taken 0.0", "http_slots_waited_for 0.0", "http_slots_max 1.0"],
    ]


HUNG: Final = {"method": "GET", "url": "/probe/slow?seconds=0.3"}
HEALTHY: Final = {"method": "GET", "url": "/probe/ok"}


def test_routes_that_hang_hold_no_others_up(probe_client: ProbeClient) -> None:
    """Forty hang, and ten that need nothing of what those wait for are served."""
    routes = {"GET /probe/slow": Policy(max_concurrency=5, queue_timeout=0)}
    client = probe_client(max_concurrency=10, queue_timeout=0, routes=routes)

    responses = ask_at_once(client, *[HUNG] * 40, *[HEALTHY] * 10)

    assert statuses(responses) == [200] * 5 + [503] * 35 + [200] * 10
    assert is_idle(client)


def test_others_take_no_slot_of_theirs(probe_client: ProbeClient) -> None:
    client = probe_client(routes={"/probe/*": Policy(max_concurrency=1)}, **ONE)
    take_all_slots(client)

    assert client.get("/probe/ok").status_code == 200
    assert client.get("/nowhere").status_code == 503


def test_routes_below_a_path_share_their_slots(probe_client: ProbeClient) -> None:
    routes = {"/probe/*": Policy(max_concurrency=1, queue_timeout=0)}
    client = probe_client(routes=routes)

    responses = ask_at_once(client, HUNG, {"method": "GET", "url": "/probe/sync"})

    assert statuses(responses) == [200, 503]


def test_routes_can_wait_for_another_time(probe_client: ProbeClient) -> None:
    client = probe_client(routes={"GET /probe/ok": Policy(queue_timeout=5)}, **ONE)

    assert statuses(ask_at_once(client, SLOW, HEALTHY, SLOW)) == [200, 200, 503]


@pytest.mark.skipif("metrics" not in LAYERS, reason="that layer shows them")
def test_the_metrics_show_all_slots(probe_client: ProbeClient) -> None:
    routes = {"GET /probe/slow": Policy(max_concurrency=5)}
    client = probe_client(max_concurrency=10, routes=routes)
    client.get("/probe/ok")
    slots_of(client.app).apart[0].taken = 2

    page = client.get("/metrics").text

    assert 'http_slots_max{policy=""} 10.0' in page
    assert 'http_slots_max{policy="GET /probe/slow"} 5.0' in page
    assert 'http_slots_taken{policy="GET /probe/slow"} 2.0' in page


def test_a_policy_without_slots_ends_the_start(
    probe_app: ProbeApp, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        probe_app(routes={"/probe/*": Policy(max_concurrency=0)})

    assert "ROUTES['/probe/*']: MAX_CONCURRENCY must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [{"max_concurrency": 0}, {"max_concurrency": "many"}, {"queue_timeout": -1}]
    + [{"queue_timeout": value} for value in ("nan", "inf", "soon")],
)
def test_nonsense_is_refused_at_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        stack_settings(**settings)
