"""Session: what an endpoint stores comes back, and nobody else can write it."""

import hashlib
import logging
import time
from hashlib import sha256
from typing import Any, Final

import pytest
from fastapi import FastAPI, Request, Response, WebSocket
from itsdangerous import TimestampSigner
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware

from app.middleware import StackSettings
from app.middleware.core.check import faults
from app.middleware.order import LAYERS
from app.middleware.stack import build_stack

from .asgi import Dialogue
from .conftest import ProbeApp, ProbeClient, stack_settings

SECRET: Final = sha256(b"session").hexdigest()
ONION: Final = "eyJiYXNrZXQiOiAib25pb24ifQ=="  # {"basket": "onion"}
LEEK: Final = "eyJiYXNrZXQiOiAibGVlayJ9"


@pytest.fixture
def app(probe_app: ProbeApp) -> FastAPI:
    app = probe_app(session_secret=SECRET)
    add_routes(app)
    return app


def add_routes(app: FastAPI) -> None:
    @app.post("/basket/{item}")
    async def put(item: str, request: Request) -> None:
        request.session["basket"] = item
        if item == "boom":
            raise RuntimeError

    @app.get("/basket")
    async def get(request: Request) -> str | None:
        basket: str | None = request.session.get("basket")
        return basket

    @app.delete("/basket")
    async def clear(request: Request) -> None:
        request.session.clear()

    @app.websocket("/basket")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.session["basket"])
        await websocket.close()


def test_what_is_stored_comes_back(app: FastAPI, probe_client: ProbeClient) -> None:
    client = probe_client(app=app, base_url="https://localhost")

    client.post("/basket/onion")

    assert client.get("/basket").json() == "onion"
    client.delete("/basket")
    assert client.get("/basket").json() is None


def test_the_session_of_a_mounted_app_is_another(app: FastAPI, probe_client: ProbeClient) -> None:
    inner = FastAPI()
    inner.add_middleware(SessionMiddleware, secret_key=SECRET, session_cookie="inner")

    @inner.post("/login")
    async def login(request: Request) -> None:
        request.session["basket"] = "of the other"

    app.mount("/inner", inner)
    client = probe_client(app=app, base_url="https://localhost")
    client.post("/basket/onion")

    cookies = client.post("/inner/login").headers.get_list("set-cookie")

    assert [cookie.partition("=")[0] for cookie in cookies] == ["inner"]
    assert client.get("/basket").json() == "onion"


def test_a_mounted_app_has_another_cookie(app: FastAPI, probe_app: ProbeApp) -> None:
    mounted = Starlette()
    mounted.add_middleware(SessionMiddleware, secret_key=SECRET)
    app.mount("/admin", mounted)

    (fault,) = faults(app)
    name = fault.partition("such as ")[2].removesuffix(".")
    renamed = probe_app(session_secret=SECRET, session_cookie=name)
    renamed.mount("/admin", mounted)

    assert fault.startswith("The app mounted at /admin has a SessionMiddleware of its own")
    assert faults(renamed) == []


@pytest.mark.parametrize("own", [None, "private, max-age=60"])
def test_no_cache_stores_the_cookie(
    own: str | None, app: FastAPI, probe_client: ProbeClient
) -> None:
    """Or it would give one session to several visitors."""

    @app.get("/visit")
    async def visit(request: Request, response: Response) -> None:
        request.session.setdefault("visits", 1)
        if own:
            response.headers["Cache-Control"] = own

    client = probe_client(app=app, base_url="https://localhost")
    first, second = client.get("/visit"), client.get("/visit")

    assert "set-cookie" in first.headers
    assert first.headers.get_list("cache-control") == [own or "no-store"]
    assert "set-cookie" not in second.headers
    assert second.headers.get("cache-control") == own


def test_the_cookie_is_guarded(app: FastAPI, probe_client: ProbeClient) -> None:
    response = probe_client(app=app).post("/basket/onion")

    cookie = response.headers["set-cookie"].lower()
    assert {"httponly", "secure", "samesite=lax", "max-age=1209600", "path=/"} <= set(
        cookie.split("; ")
    )


def test_the_cookie_is_a_setting(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app(session_max_age=60, session_same_site="strict", session_https_only=False)
    add_routes(app)

    cookie = probe_client(app=app).post("/basket/onion").headers["set-cookie"].lower()

    assert "max-age=60;" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie


def test_services_on_one_host_have_a_cookie_each(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    orders, shop = (
        probe_app(session_cookie=name, session_secret=secret)
        for name, secret in (("orders_session", SECRET), ("shop_session", SECRET[::-1]))
    )
    add_routes(orders)
    add_routes(shop)
    first = probe_client(app=orders, base_url="https://localhost")
    second = probe_client(app=shop, base_url="https://localhost")

    first.post("/basket/onion")
    second.cookies = first.cookies
    second.post("/basket/leek")

    assert first.get("/basket").json() == "onion"
    assert second.get("/basket").json() == "leek"


@pytest.mark.parametrize(("others", "basket"), [(800, "onion"), (2000, None)])
def test_a_cookie_among_many_is_read_unless_they_are_too_long(
    others: int, basket: str | None, app: FastAPI, probe_client: ProbeClient
) -> None:
    cookie = TimestampSigner(SECRET).sign(ONION).decode()
    client = probe_client(app=app)
    headers = {"Cookie": "a=bcdefg; " * others + f"session={cookie}"}

    assert client.get("/basket", headers=headers).json() == basket
    assert client.post("/basket/leek", headers=headers).status_code == 200


@pytest.mark.parametrize("name", ["__Host-session", "session"])
@pytest.mark.parametrize("space", [b"\xa0", b"\x85", b"\x0b"])
def test_another_name_is_another_cookie(space: bytes, name: str, probe_app: ProbeApp) -> None:
    """Browsers let another host of the domain set it, whatever the prefix forbids."""
    app = probe_app(session_secret=SECRET, session_cookie=name)
    add_routes(app)
    sign = TimestampSigner(SECRET).sign
    own, tossed = (f"{name}={sign(basket).decode()}".encode() for basket in (ONION, LEEK))
    tossed = space + tossed
    baskets: list[bytes] = []

    for cookie in (own + b"; " + tossed, tossed + b";\t" + own, tossed):
        dialogue = Dialogue("GET", "/basket")
        dialogue.scope["headers"].append((b"cookie", cookie))
        baskets.append(dialogue.run(app).body)

    assert baskets == [b'"onion"', b'"onion"', b"null"]


def test_who_stores_nothing_gets_no_cookie(app: FastAPI, probe_client: ProbeClient) -> None:
    response = probe_client(app=app).get("/probe/ok")

    assert "set-cookie" not in response.headers


def test_caches_tell_sessions_apart(app: FastAPI, probe_client: ProbeClient) -> None:
    assert "Cookie" in probe_client(app=app).get("/basket").headers["vary"]


class Yesterday(TimestampSigner):
    def get_timestamp(self) -> int:
        return int(time.time()) - 86_400


@pytest.mark.parametrize(
    ("signer", "basket"),
    [
        (TimestampSigner(SECRET), "onion"),
        (Yesterday(SECRET), "onion"),
        (TimestampSigner("another secret"), None),
    ],
)
def test_a_forged_cookie_counts_as_none(
    signer: TimestampSigner, basket: str | None, app: FastAPI, probe_client: ProbeClient
) -> None:
    cookie = signer.sign(ONION).decode()

    response = probe_client(app=app).get("/basket", headers={"Cookie": f"session={cookie}"})

    assert response.json() == basket


def test_an_old_cookie_counts_as_none(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app(session_secret=SECRET, session_max_age=3600)
    add_routes(app)
    cookie = Yesterday(SECRET).sign(ONION).decode()

    response = probe_client(app=app).get("/basket", headers={"Cookie": f"session={cookie}"})

    assert response.json() is None


@pytest.mark.parametrize("value", ["", "x", "a.b.c", "\xff", "=" * 4000])
def test_a_malformed_cookie_counts_as_none(
    value: str, app: FastAPI, probe_client: ProbeClient
) -> None:
    headers = [(b"Cookie", f"session={value}".encode("latin-1"))]

    response = probe_client(app=app).get("/basket", headers=headers)

    assert response.status_code == 200
    assert response.json() is None


def test_a_request_that_crashes_changes_nothing(app: FastAPI, probe_client: ProbeClient) -> None:
    response = probe_client(app=app).post("/basket/boom")

    assert response.status_code == 500
    assert "set-cookie" not in response.headers


@pytest.mark.skipif("error_handler" not in LAYERS, reason="the mounted app responds itself")
@pytest.mark.parametrize("kind", [FastAPI, Starlette])
def test_a_mounted_app_that_crashes_changes_nothing(
    kind: Any, app: FastAPI, probe_client: ProbeClient
) -> None:
    mounted = kind(exception_handlers=app.exception_handlers)
    mounted.mount("/", app.router)
    app.mount("/mounted", mounted)
    client = probe_client(app=app)

    crashed, stored = (client.post(f"/mounted/basket/{item}") for item in ("boom", "onion"))

    assert (crashed.status_code, stored.status_code) == (500, 200)
    assert "set-cookie" not in crashed.headers
    assert "set-cookie" in stored.headers


def test_a_websocket_reads_the_session(app: FastAPI, probe_client: ProbeClient) -> None:
    client = probe_client(app=app, base_url="https://localhost")
    client.post("/basket/onion")

    with client.websocket_connect("wss://localhost/basket") as websocket:
        assert websocket.receive_text() == "onion"


@pytest.mark.parametrize(
    ("secret", "sentence"),
    [
        ("", "must have 32 characters or more; .* makes a good one"),
        (SECRET[:31], "must have 32 characters or more"),
        (f"change-me-{SECRET}", "must not be the value of an example"),
        (f"your_secret_key_{SECRET}", "must not be the value of an example"),
        (f"09d25e094{SECRET}", "must not be the value of an example"),
        ("x" * 64, "must be random, not a pattern"),
        ("abababababcdcdcdababababcdcdcdab", "must be random, not a pattern"),
        (SECRET[:16] * 2, "must be random, not a pattern"),
        *(
            (hashlib.new(name, nothing).hexdigest(), "must not be the hash of an empty text")
            for name in ("md5", "sha1", "sha256", "sha512")
            for nothing in (b"", b"\n")
        ),
        (f"{sha256().hexdigest()}  -", "must not be the hash of an empty text"),
        ("0123456789abcdefghijklmnopqrstuvwxyz", "must be random, not a pattern"),
    ],
)
def test_a_secret_that_can_be_guessed_is_refused_at_start(secret: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence) as error:
        stack_settings(session_secret=secret)

    assert not secret or secret not in str(error.value)


def test_a_line_break_is_no_part_of_the_secret() -> None:
    """A mounted file often ends with one, and another worker's may not."""
    secret = stack_settings(session_secret=f" {SECRET}\n").session_secret

    assert secret.get_secret_value() == SECRET
    with pytest.raises(ValidationError, match="32 characters"):
        stack_settings(session_secret=f"{SECRET[:31]}\n")


def test_without_a_secret_the_start_tells_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit):
        StackSettings.from_environment()

    assert "SESSION_SECRET must be set: `python -c" in capsys.readouterr().err


def test_a_secret_that_is_not_utf_8_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such bytes get in as surrogates, and signing a cookie would fail for them later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SESSION_SECRET", f"{SECRET}\udcff")

    with pytest.raises(SystemExit):
        StackSettings.from_environment()

    assert "SESSION_SECRET must be UTF-8.\n" in capsys.readouterr().err


def test_a_cookie_for_all_sites_must_be_secure() -> None:
    with pytest.raises(ValidationError, match="SESSION_HTTPS_ONLY must be true"):
        stack_settings(session_same_site="none", session_https_only=False)


def test_the_secret_is_never_shown() -> None:
    settings = stack_settings(session_secret=SECRET)

    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert SECRET not in repr(build_stack(settings))


@pytest.mark.parametrize("same_site", ["lax", "none"])
def test_a_cookie_for_every_site_is_warned_of_unless_a_layer_checks_it(
    same_site: str, probe_app: ProbeApp, probe_client: ProbeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    probe_client(app=probe_app(session_secret=SECRET, session_same_site=same_site))

    warned = [line for line in caplog.messages if line.startswith("SESSION_SAME_SITE=none lets")]
    assert len(warned) == (same_site == "none" and "cross_origin" not in LAYERS)
