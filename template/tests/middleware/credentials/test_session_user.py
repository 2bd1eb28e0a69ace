"""Session user: the session names the user, and only the service can write a session."""

import json
from base64 import b64encode
from hashlib import sha256
from typing import Annotated, Any, Final

import pytest
from fastapi import FastAPI, Request, Security
from itsdangerous import TimestampSigner

from app.middleware.authentication import CurrentUser, User, current_user
from tests.middleware.conftest import ProbeApp, ProbeClient

SECRET: Final = sha256(b"tests").hexdigest()
SETTINGS: Final[dict[str, Any]] = {"session_secret": SECRET}


def cookie(session: object, secret: str = SECRET) -> dict[str, str]:
    data = b64encode(json.dumps(session).encode())
    return {"Cookie": f"session={TimestampSigner(secret).sign(data).decode()}"}


def headers(user: str) -> dict[str, str]:
    """Return what authenticates `user`."""
    return cookie({"user": user})


# Signed, but of nobody.
BAD: Final = cookie({"user": ["nobody"]})


@pytest.fixture
def app(probe_app: ProbeApp) -> FastAPI:
    app = probe_app(**SETTINGS)

    @app.post("/login")
    async def login(request: Request) -> None:
        request.session["user"] = "alice"

    @app.post("/logout")
    async def logout(request: Request) -> None:
        request.session.clear()

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.id

    return app


def test_a_login_lasts_until_the_logout(app: FastAPI, probe_client: ProbeClient) -> None:
    client = probe_client(app=app, base_url="https://localhost")

    client.post("/login")
    assert client.get("/me").json() == "alice"

    client.post("/logout")
    assert client.get("/me").status_code == 401


@pytest.mark.parametrize(("user", "name"), [("alice", "alice"), (7, "7")])
def test_the_session_names_the_user(
    user: object, name: str, app: FastAPI, probe_client: ProbeClient
) -> None:
    response = probe_client(app=app).get("/me", headers=cookie({"user": user}))

    assert response.json() == name


@pytest.mark.parametrize("session", [{}, {"user": None}, {"basket": 1}])
def test_a_session_without_a_user_is_anonymous(
    session: object, app: FastAPI, probe_client: ProbeClient
) -> None:
    client = probe_client(app=app)

    assert client.get("/probe/ok", headers=cookie(session)).status_code == 200
    assert client.get("/me", headers=cookie(session)).status_code == 401


@pytest.mark.parametrize("user", [{"id": 7}, ["alice"], "", True, 1.5])
def test_a_session_with_anything_else_is_refused(
    user: object, app: FastAPI, probe_client: ProbeClient
) -> None:
    response = probe_client(app=app).get("/probe/ok", headers=cookie({"user": user}))

    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Cookie error=")


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        (["orders:read", "orders:write"], 200),
        ("orders:write orders:read", 200),
        (["orders:write"], 403),
        ([], 403),
        (None, 403),
        ({"orders:read": True}, 403),
        ([["orders:read"]], 403),
        (7, 403),
    ],
)
def test_the_session_holds_the_scopes(
    scopes: object, status: int, app: FastAPI, probe_client: ProbeClient
) -> None:
    @app.get("/orders")
    async def orders(user: Annotated[User, Security(current_user, scopes=["orders:read"])]) -> str:
        return user.id

    sent = cookie({"user": "alice", "scopes": scopes})

    assert probe_client(app=app).get("/orders", headers=sent).status_code == status


def test_the_cookie_can_be_renamed(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app(**SETTINGS, session_cookie="orders_session")

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.id

    client = probe_client(app=app)
    renamed = {"Cookie": f"orders_{cookie({'user': 'alice'})['Cookie']}"}
    assert client.get("/me", headers=renamed).json() == "alice"
    assert client.get("/me", headers=cookie({"user": "alice"})).status_code == 401
    schemes = app.openapi()["components"]["securitySchemes"]
    assert schemes["session"] == {"type": "apiKey", "in": "cookie", "name": "orders_session"}


def test_a_forged_session_is_anonymous(app: FastAPI, probe_client: ProbeClient) -> None:
    forged = cookie({"user": "alice"}, secret="another secret")

    assert probe_client(app=app).get("/me", headers=forged).status_code == 401


def test_caches_tell_users_apart(app: FastAPI, probe_client: ProbeClient) -> None:
    """A user must not get the stored response to an anonymous request."""
    assert "Cookie" in probe_client(app=app).get("/probe/ok").headers["vary"]


def test_openapi_names_the_cookie(app: FastAPI) -> None:
    schemes = app.openapi()["components"]["securitySchemes"]

    assert schemes["session"] == {"type": "apiKey", "in": "cookie", "name": "session"}
