"""Idempotency: a request that is repeated with its key runs once."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from httpx2 import ASGITransport, AsyncClient, Response
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Host, Route
from starlette.types import Receive, Scope, Send

from app.middleware import Policy, idempotency
from app.middleware.order import LAYERS
from app.middleware.storage import responses
from app.middleware.storage.base import StorageLostError

from .asgi import CutOff, Dialogue, ask_at_once
from .conftest import WS, ProbeApp, ProbeClient, stack_settings
from .refusals import ORIGIN, Refusal
from .storage.test_base import LostStorage, with_storage
from .users import SETTINGS, headers

REFUSAL = Refusal(
    status=400,
    settings=SETTINGS,
    method="POST",
    path="/probe/items",
    headers={**headers("alice"), "Idempotency-Key": "k" * 256},
    request={"json": {"name": "onion"}},
    websocket=False,
)

# Gates that look at each request: settings, what passes, what is refused, and how.
Gate = tuple[dict[str, Any], dict[str, str], dict[str, str], int]
GATES: Final[dict[str, Gate]] = {
    "client_version": ({"blocked_clients": ["Old/"]}, {}, {"User-Agent": "Old/1"}, 410),
    "required_headers": (
        {"required_headers": ["X-Environment: test"]},
        {"X-Environment": "test"},
        {},
        400,
    ),
    "cross_origin": ({}, {}, {"Origin": "https://evil.example"}, 403),
}


class Shop:
    """A service that counts how often its routes run."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.orders = 0
        self.pause = 0.1
        self.runs = asyncio.Event()
        self.statuses: list[int] = []
        app.add_api_route("/orders", self.order, methods=["GET", "POST", "PATCH"])
        app.add_api_route("/slow", self.slow, methods=["POST"])
        app.add_api_route("/fails", self.fails, methods=["POST"])
        app.add_api_route("/large", self.large, methods=["POST"])
        app.add_api_route("/stream", self.stream, methods=["POST"])

    async def order(self, request: Request) -> PlainTextResponse:
        self.orders += 1
        body = (await request.body()).decode()
        sent = {"Location": f"/orders/{self.orders}", "Set-Cookie": "visits=1"}
        return PlainTextResponse(f"order {self.orders}: {body}", 201, sent)

    async def slow(self) -> str:
        self.orders += 1
        self.runs.set()
        await asyncio.sleep(self.pause)
        return "done"

    async def fails(self) -> PlainTextResponse:
        """Respond with each of `statuses` once; 0 means an exception."""
        self.orders += 1
        status = self.statuses.pop(0) if self.statuses else 200
        if not status:
            msg = "a crash"
            raise RuntimeError(msg)
        return PlainTextResponse("as told", status)

    async def large(self) -> PlainTextResponse:
        self.orders += 1
        return PlainTextResponse("x" * (responses.LARGEST + 1))

    async def stream(self, chunks: int = 3, *, breaks: bool = False) -> StreamingResponse:
        self.orders += 1

        async def lines() -> AsyncIterator[str]:
            for number in range(chunks):
                yield f"line {number}\n"
            if breaks:
                msg = "the stream broke"
                raise RuntimeError(msg)

        return StreamingResponse(lines(), media_type="text/plain")


class KeepingStorage(LostStorage):
    """A storage that works, for as long as a test runs."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[object, Any] = {}

    async def increment(self, *_: object) -> tuple[int, float]:
        return 1, 60.0

    async def claim(self, *arguments: object) -> bytes | None:
        key, value, _ = arguments
        found: bytes | None = self.kept.get(key)
        self.kept.setdefault(key, value)
        return found

    async def replace(self, *arguments: object) -> bool:
        key, old, new, _ = arguments
        if self.kept.pop(key, old) != old:
            return False
        if new is not None:
            self.kept[key] = new
        return True


class LateStorage(KeepingStorage):
    """A storage that takes a key and is slow to say so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def claim(self, *arguments: object) -> bytes | None:
        found = await super().claim(*arguments)
        self.asked.set()
        await asyncio.sleep(30)
        return found


class TakenStorage(KeepingStorage):
    """A storage that loses a claim, and has that of a retry when the request ends."""

    async def replace(self, *_: object) -> bool:
        return False


class SoonLostStorage(KeepingStorage):
    """A storage that is lost while a request runs."""

    async def replace(self, *_: object) -> bool:
        raise StorageLostError


@pytest.fixture
def shop(probe_app: ProbeApp) -> Shop:
    return Shop(probe_app(**SETTINGS))


def post(
    client: TestClient,
    *,
    key: str | bytes = "first",
    user: str | None = "alice",
    method: str = "POST",
    url: str = "/orders",
    body: str = "onions",
    extra: Mapping[str, str] | None = None,
) -> Response:
    sent: Any = {**(headers(user) if user else {}), **(extra or {}), "Idempotency-Key": key}
    return client.request(method, url, content=body, headers=sent)


def give_up(client: TestClient, *, url: str, after: asyncio.Event) -> None:
    """Send a request, and cancel it when `after` is set."""
    sent = {**headers("alice"), "Idempotency-Key": "first"}

    async def run() -> None:
        transport = ASGITransport(app=client.app)
        async with AsyncClient(transport=transport, base_url="http://localhost") as peer:
            task = asyncio.create_task(peer.post(url, headers=sent))
            await after.wait()
            task.cancel()
            await asyncio.wait({task})

    assert client.portal is not None
    client.portal.call(run)


def test_a_repeated_request_runs_once(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)

    first, second = post(client), post(client)

    assert shop.orders == 1
    assert (first.status_code, first.text) == (201, "order 1: onions")
    assert (second.status_code, second.text) == (201, "order 1: onions")
    assert second.headers["location"] == "/orders/1"
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers


def test_a_cookie_is_never_replayed(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)

    first, second = post(client), post(client)

    assert "visits=1" in first.headers["set-cookie"]
    assert "visits" not in second.headers.get("set-cookie", "")


def test_a_patch_is_repeated_alike(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)

    texts = {post(client, method="PATCH").text for _ in range(2)}

    assert texts == {"order 1: onions"}


def test_other_keys_and_methods_run(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)

    post(client, key="first")
    post(client, key="second")
    client.post("/orders", headers=headers("alice"))
    client.post("/orders", headers=headers("alice"))
    post(client, method="GET")
    post(client, method="GET")

    assert shop.orders == 6


def test_anonymous_requests_pass_untouched(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)

    statuses = [post(client, user=None, key=key).status_code for key in ("a", "a", "k" * 300)]

    assert statuses == [201, 201, 201]
    assert shop.orders == 3


def test_another_user_never_gets_the_answer(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)

    texts = [post(client, user=user).text for user in ("alice", "bob", "alice")]

    assert texts == ["order 1: onions", "order 2: onions", "order 1: onions"]


@pytest.mark.parametrize(
    "other", [{"body": "leeks"}, {"url": "/slow"}, {"url": "/orders?all"}, {"method": "PATCH"}]
)
def test_a_key_belongs_to_one_request(
    other: dict[str, Any], shop: Shop, probe_client: ProbeClient
) -> None:
    client = probe_client(app=shop.app)
    post(client)

    response = post(client, **other)

    assert response.status_code == 422
    assert response.json()["layer"] == "idempotency"
    assert shop.orders == 1


def test_a_host_with_routes_of_its_own_is_part_of_the_request(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app, tenant = probe_app(**SETTINGS, allowed_hosts=["*.example"]), Shop(FastAPI())
    app.mount("/of", Starlette(routes=[Host("{name}.example", tenant.app)]))
    app.host("{name}.example", tenant.app)
    client = probe_client(app=app, base_url="https://localhost")

    def ask(host: str, url: str, key: str) -> int:
        return post(client, url=url, key=key, extra={"Host": host}).status_code

    for key, url in (("a", "/orders"), ("b", "/of/orders")):
        statuses = [ask(host, url, key) for host in ("a.example", "A.example:80", "b.example")]
        assert statuses == [201, 201, 422]
    assert tenant.orders == 2, "each ran once"


def test_a_retry_over_another_name_of_the_service_is_one(
    shop: Shop, probe_client: ProbeClient
) -> None:
    """Such as that of another region, after a failure."""
    shop.app.host("other.example", FastAPI())
    client = probe_client(app=shop.app)

    texts = {post(client, extra={"Host": host}).text for host in ("localhost", "127.0.0.1")}

    assert texts == {"order 1: onions"}


def test_only_who_should_come_back_is_told_when(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)
    post(client)

    assert "retry-after" not in post(client, body="leeks").headers
    assert "retry-after" not in post(client, key="k" * 256).headers


def test_services_that_share_a_storage_do_not_share_answers(
    shop: Shop, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    other = Shop(probe_app(**SETTINGS))
    other.app.title = "Another"
    storage = KeepingStorage()

    for app in (shop.app, other.app):
        post(probe_client(app=with_storage(app, storage)))

    assert (shop.orders, other.orders) == (1, 1)


def test_two_at_once_run_once(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)
    sent = {**headers("alice"), "Idempotency-Key": "first"}
    request = {"method": "POST", "url": "/slow", "headers": sent}

    responses = ask_at_once(client, request, request, request)

    running = [response for response in responses if response.status_code == 409]
    assert len(running) == 2
    assert [response.headers["retry-after"] for response in running] == ["1", "1"]
    assert shop.orders == 1
    assert post(client, url="/slow", body="").headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("status", [0, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503])
def test_a_refusal_and_a_crash_free_the_key(
    status: int, shop: Shop, probe_client: ProbeClient
) -> None:
    """The client can correct the one, with another body too, and retry the other."""
    shop.statuses = [status]
    client = probe_client(app=shop.app)
    first = post(client, url="/fails")

    second = post(client, url="/fails", body="mended")

    assert first.status_code == (status or 500)
    assert first.text, "whoever answers crashes has done so"
    assert second.status_code == 200
    assert shop.orders == 2


def test_a_redirection_is_kept(shop: Shop, probe_client: ProbeClient) -> None:
    """See Other (303) is how a form reports what it did."""
    shop.statuses = [303]
    client = probe_client(app=shop.app)

    statuses = [post(client, url="/fails").status_code for _ in range(2)]

    assert statuses == [303, 303]


def test_a_request_that_was_cut_off_may_run_on(shop: Shop, probe_client: ProbeClient) -> None:
    """A `def` endpoint does, in its thread: its key is not free at once."""
    shop.pause = 30
    client = probe_client(app=shop.app)

    give_up(client, url="/slow", after=shop.runs)
    shop.pause = 0

    assert post(client, url="/slow", body="").status_code == 409
    assert shop.orders == 1


def test_a_request_whose_body_was_cut_off_does_not_run(
    shop: Shop, probe_client: ProbeClient
) -> None:
    sent = {**headers("alice"), "Idempotency-Key": "first", "Content-Length": "6"}

    dialogue = CutOff("POST", "/orders", b"oni", headers=sent).run(shop.app)

    assert dialogue.sent == []
    assert shop.orders == 0
    assert post(probe_client(app=shop.app)).status_code == 201


def test_a_stream_is_kept_when_it_was_complete(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)

    texts = {post(client, url="/stream").text for _ in range(2)}

    assert texts == {"line 0\nline 1\nline 2\n"}
    assert shop.orders == 1


def test_a_stream_that_breaks_frees_the_key(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)

    for _ in range(2):
        post(client, url="/stream?breaks=true")

    assert shop.orders == 2


def test_an_answer_too_large_to_keep_does_not_run_again(
    shop: Shop, probe_client: ProbeClient
) -> None:
    client = probe_client(app=shop.app)

    first, second = post(client, url="/large"), post(client, url="/large")

    assert first.status_code == 200
    assert second.status_code == 409
    assert "too large" in second.json()["detail"]
    assert shop.orders == 1


def test_a_stream_too_large_to_keep_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, shop: Shop, probe_client: ProbeClient
) -> None:
    """It passes the limit in the middle, with more to come."""
    monkeypatch.setattr(responses, "LARGEST", 10)
    client = probe_client(app=shop.app)

    first, second = (post(client, url="/stream?chunks=5") for _ in range(2))

    assert first.text.count("line") == 5
    assert second.status_code == 409
    assert shop.orders == 1


def test_what_is_no_part_of_a_response_is_not_kept(shop: Shop) -> None:
    """Servers of HTTP/2 take such messages between its parts."""

    class Pushes:
        async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
            push = {"type": "http.response.push", "path": "/style.css", "headers": list[Any]()}
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send(push)
            await send({"type": "http.response.body", "body": b"the ", "more_body": True})
            await send(push)
            await send({"type": "http.response.body", "body": b"whole"})

    shop.app.router.routes.append(Route("/pushes", Pushes(), methods=["POST"]))
    sent = {**headers("alice"), "Idempotency-Key": "first"}

    first, again = (Dialogue("POST", "/pushes", headers=sent).run(shop.app) for _ in range(2))

    assert [item["type"] for item in first.sent].count("http.response.push") == 2
    assert again.headers["idempotency-replayed"] == "true"
    assert again.body == b"the whole"


def test_a_file_is_kept_where_the_server_could_send_it_itself(
    shop: Shop, probe_client: ProbeClient
) -> None:
    async def invoice() -> FileResponse:
        return FileResponse(__file__)

    shop.app.add_api_route("/invoice", invoice, methods=["POST"])
    sent = {**headers("alice"), "Idempotency-Key": "first"}
    dialogue = Dialogue("POST", "/invoice", headers=sent)
    dialogue.scope["extensions"] = {"http.response.pathsend": dict[str, Any]()}

    dialogue.run(shop.app)

    assert dialogue.status == 200
    again = post(probe_client(app=shop.app), url="/invoice", body="")
    assert again.status_code == 200
    assert again.headers["idempotency-replayed"] == "true"
    assert again.text == Path(__file__).read_text()


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"a\tb", "é".encode(), b"\x7f"])
def test_a_bad_key_is_refused(key: bytes, shop: Shop, probe_client: ProbeClient) -> None:
    response = post(probe_client(app=shop.app), key=key)

    assert response.status_code == 400
    assert "1 to 255" in response.json()["detail"]
    assert shop.orders == 0


@pytest.mark.parametrize("key", ["k", "k" * 255, '"8e03978e-40d5-43e8-bc93-6894a57f9324"'])
def test_a_good_key_is_taken(key: str, shop: Shop, probe_client: ProbeClient) -> None:
    assert post(probe_client(app=shop.app), key=key).status_code == 201


def test_a_doubled_key_is_refused(shop: Shop, probe_client: ProbeClient) -> None:
    pairs = [*headers("alice").items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]

    response = probe_client(app=shop.app).post("/orders", headers=pairs)

    assert response.status_code == 400
    assert shop.orders == 0


def test_a_lost_storage_runs_nothing(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=with_storage(shop.app, LostStorage()))

    response = post(client)

    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["layer"] == "idempotency"
    assert shop.orders == 0


@pytest.mark.parametrize("status", [0, 200, 404])
def test_a_storage_that_is_lost_meanwhile_spoils_no_answer(status: int, shop: Shop) -> None:
    """The claim stays for its minute, so that nothing runs twice."""
    shop.statuses = [status]
    with_storage(shop.app, SoonLostStorage())
    sent = {**headers("alice"), "Idempotency-Key": "first"}
    first, second = (Dialogue("POST", "/fails", headers=sent) for _ in range(2))

    with suppress(RuntimeError):
        first.run(shop.app)
    second.run(shop.app)

    assert (first.status, second.status) == (status or 500, 409)
    assert shop.orders == 1


@pytest.mark.parametrize(("status", "lines"), [(200, 1), (404, 0)])
def test_a_request_that_ran_beside_its_retry_is_logged(
    status: int,
    lines: int,
    shop: Shop,
    probe_client: ProbeClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where both can have an effect: a refusal has none."""
    shop.statuses = [status]
    client = probe_client(app=with_storage(shop.app, TakenStorage()))

    post(client, url="/fails")

    logged = [it.getMessage() for it in caplog.records if "ran twice" in it.getMessage()]
    assert len(logged) == lines
    assert all("retry claimed answer:" in line for line in logged)


def test_no_claim_is_renewed_after_its_end() -> None:
    """Its key may be free again, and would be held for a minute."""
    storage: Any = KeepingStorage()

    async def scenario() -> None:
        claim = responses.Claim(storage, "place", b"")
        await claim.take()
        await claim.free()
        await claim.renew()

    asyncio.run(scenario())

    assert storage.kept == {}


def test_a_claim_is_renewed_while_the_request_runs(
    monkeypatch: pytest.MonkeyPatch, shop: Shop, probe_client: ProbeClient
) -> None:
    """Or a slow request would run a second time."""
    renewals: list[object] = []

    async def renew(claim: object) -> None:
        renewals.append(claim)

    monkeypatch.setattr(idempotency, "_RENEWAL_SECONDS", 0.02)
    monkeypatch.setattr(responses.Claim, "renew", renew)
    client = probe_client(app=shop.app)

    post(client, url="/slow")

    assert renewals
    count = len(renewals)
    post(client, url="/orders", key="second")
    assert len(renewals) <= count + 1


def test_a_large_body_is_not_read(
    monkeypatch: pytest.MonkeyPatch, probe_client: ProbeClient
) -> None:
    read: list[int] = []

    def fingerprint(_: object, body: bytes, __: object) -> bytes:
        read.append(len(body))
        return bytes(32)

    monkeypatch.setattr(idempotency, "_fingerprint", fingerprint)
    client = probe_client(max_body_bytes=1000, **SETTINGS)
    sent = {**headers("alice"), "Idempotency-Key": "first"}

    response = client.post("/probe/upload", content=iter([b"x" * 500] * 10), headers=sent)

    assert response.status_code == 413
    assert read == []


def test_a_request_that_is_cancelled_while_it_takes_the_key_frees_it(
    shop: Shop, probe_client: ProbeClient
) -> None:
    """The storage may take the key although nobody waits for it any more."""
    storage = LateStorage()
    client = probe_client(app=with_storage(shop.app, storage))

    give_up(client, url="/orders", after=storage.asked)

    assert storage.kept == {}


@pytest.mark.parametrize("gate", [name for name in GATES if name in LAYERS])
def test_a_refusal_stands_in_front_of_a_replay(
    gate: str, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    settings, passes, refused, status = GATES[gate]
    client = probe_client(app=Shop(probe_app(**settings, **SETTINGS)).app)
    assert post(client, extra=passes).status_code == 201

    response = post(client, extra=refused)

    assert response.status_code == status


@pytest.mark.skipif("user_rate_limit" not in LAYERS, reason="that layer limits it")
def test_a_replay_spends_the_limit_of_its_user(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    client = probe_client(app=Shop(probe_app(user_rate_limit="2/hour", **SETTINGS)).app)

    statuses = [post(client).status_code for _ in range(3)]

    assert statuses == [201, 201, 429]


@pytest.mark.skipif("compression" not in LAYERS, reason="that layer encodes it")
def test_a_replay_is_encoded_for_whoever_asks(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)
    body = "onions " * 1000

    packed = post(client, body=body, extra={"Accept-Encoding": "gzip"})
    plain = post(client, body=body, extra={"Accept-Encoding": "identity"})

    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert plain.text == packed.text
    assert shop.orders == 1


@pytest.mark.skipif("request_id" not in LAYERS, reason="that layer gives it")
def test_a_replay_has_an_id_of_its_own(shop: Shop, probe_client: ProbeClient) -> None:
    client = probe_client(app=shop.app)

    ids = {post(client).headers["x-request-id"] for _ in range(2)}

    assert len(ids) == 2


@pytest.mark.skipif("cors" not in LAYERS, reason="that layer lets pages read it")
def test_a_replay_is_readable_for_whoever_asks(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    others = "https://admin.example"
    trusted = {"cross_origin_trusted": [ORIGIN, others]} if "cross_origin" in LAYERS else {}
    settings = {**SETTINGS, **trusted, "cors_allow_origins": [ORIGIN, others]}
    client = probe_client(app=Shop(probe_app(**settings)).app)

    post(client, extra={"Origin": ORIGIN})
    replay = post(client, extra={"Origin": others})

    assert replay.headers["access-control-allow-origin"] == others
    assert replay.headers["idempotency-replayed"] == "true"


def test_a_websocket_passes(probe_client: ProbeClient) -> None:
    client = probe_client(**SETTINGS)
    sent = {**headers("alice"), "Idempotency-Key": "k" * 256}

    with client.websocket_connect(WS, headers=sent) as websocket:
        websocket.send_text("hi")

        assert websocket.receive_text() == "hi"


@pytest.mark.parametrize("ttl", [0, -1])
def test_nonsense_is_refused_at_start(ttl: int) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        stack_settings(idempotency_ttl=ttl)


def test_a_route_needs_a_key(probe_client: ProbeClient) -> None:
    routes = {"/probe/*": Policy(idempotency_key_required=True)}
    client = probe_client(**SETTINGS, routes=routes)

    missing = client.post("/probe/upload", headers=headers("alice"))

    assert missing.status_code == 400
    assert missing.json()["layer"] == "idempotency"
    assert client.get("/probe/ok", headers=headers("alice")).status_code == 200
    given = {**headers("alice"), "Idempotency-Key": "one"}
    assert client.post("/probe/upload", headers=given).status_code == 200


def test_openapi_names_the_key(probe_client: ProbeClient) -> None:
    """A generated client sends only what the document names."""
    routes = {
        "POST /probe/items": Policy(idempotency_key_required=True),
        "POST /probe/slow": Policy(authentication=False),
    }
    client = probe_client(**SETTINGS, routes=routes)

    paths = client.get("/openapi.json").json()["paths"]

    found = {
        f"{method} {path}": parameter
        for path, operations in paths.items()
        for method, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "Idempotency-Key"
    }
    assert {route: parameter["required"] for route, parameter in found.items()} == {
        "post /probe/items": True,
        "post /probe/late-body": False,
        "post /probe/upload": False,
    }
    (pattern,) = {parameter["schema"]["pattern"] for parameter in found.values()}
    assert re.search(pattern, "k" * 255)
    assert not re.search(pattern, "k" * 256)
