"""Packages that bring routes, pages, streams, mounts and dependencies."""

import http.client
import zlib
from contextlib import closing
from functools import partial
from typing import Final

from tests.serving import SECONDS, SETTINGS, Server, wait_until
from tests.support import FAILED_START

from .bench import LINES, Bench, assert_layers_work, assert_logged_once, case

package = partial(case, kind="packages")

# Of a unit of work, with the status of its request.
_ENDS: Final = (("succeeds", 200), ("fails", 500), ("waits", 504), ("succeeds", 200))


def _page(server: Server, path: str, status: int = 200, method: str = "GET", **more: str) -> str:
    """Get a page that passed the layers."""
    response = server.request(path, method, **more)
    assert response.status == status, (response, server.log())
    assert response.headers.get("x-request-id"), response
    return response.body


@package(
    "sqladmin",
    *("sqladmin", "aiosqlite", "greenlet", "itsdangerous"),
    setup="with its `AuthenticationBackend`, `SESSION_COOKIE=app_session`: its own is `session`",
)
def sqladmin(bench: Bench) -> None:
    after = """
from sqladmin import Admin
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool
from starlette.requests import Request


class Login(AuthenticationBackend):
    async def login(self, request: Request) -> bool:
        request.session["admin"] = True
        return True

    async def authenticate(self, request: Request) -> bool:
        return request.session.get("admin", False)


@app.get("/visit")
async def visit(request: Request) -> None:
    request.session["visits"] = 1


engine = create_engine("sqlite://", poolclass=StaticPool)
admin = Admin(app, engine, authentication_backend=Login("s" * 32))
"""
    bench.write_main(after=after)
    with bench.serving(SESSION_COOKIE="app_session", SESSION_HTTPS_ONLY="false") as server:
        assert_layers_work(server)
        cookies: dict[str, str] = {}
        for path, method in (("/admin/login", "POST"), ("/visit", "GET")):
            sent = "; ".join(cookies.values())
            response = server.request(path, method, Cookie=sent)
            cookie = response.headers["set-cookie"].partition(";")[0]
            cookies[cookie.partition("=")[0]] = cookie
        assert "<html" in _page(server, "/admin/", Cookie="; ".join(cookies.values()))


_POLICY: Final = """
from app.middleware import Policy

CSP = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
"""
_FOR_UI: Final = '"/ui/{path:path}": Policy(content_security_policy=CSP)'
_OF_UI: Final = "a policy for its mount with `content_security_policy`: it needs inline scripts"


@package(
    "NiceGUI",
    "nicegui",
    setup=f"{_OF_UI} and `'unsafe-eval'`; with `storage_secret`, `SESSION_COOKIE=app_session`",
)
def nicegui(bench: Bench) -> None:
    after = """
from nicegui import ui


@ui.page("/page")
def page() -> None:
    ui.label("a label")


ui.run_with(app, mount_path="/ui", storage_secret="s" * 32)
"""
    bench.write_main(before=_POLICY, routes=_FOR_UI, after=after)
    with bench.serving(SESSION_COOKIE="app_session") as server:
        assert_layers_work(server)
        assert "a label" in _page(server, "/ui/page")
    with bench.starting() as refused:
        assert refused.process.wait(SECONDS) == FAILED_START
        assert "The app mounted at /ui has a SessionMiddleware of its own" in refused.log()


@package("Gradio", "gradio", setup=_OF_UI)
def gradio(bench: Bench) -> None:
    after = """
import gradio

with gradio.Blocks() as blocks:
    text = gradio.Textbox()
    gradio.Button().click(str.upper, text, text, api_name="upper")
app = gradio.mount_gradio_app(app, blocks, path="/ui")
"""
    call = """
import sys
from gradio_client import Client

print(Client(f"http://localhost:{sys.argv[1]}/ui").predict("onion", api_name="/upper"))
"""
    bench.write_main(before=_POLICY, routes=_FOR_UI, after=after)
    with bench.serving() as server:
        assert_layers_work(server)
        done = bench.run("python", "-c", call, str(server.port))
        assert "ONION" in done.stdout, (done.stdout, server.log())


@package(
    "fastapi-users",
    "fastapi-users[sqlalchemy]",
    "aiosqlite",
    setup="`JWT_KEY` is the secret of its `JWTStrategy`, and `JWT_AUDIENCE=fastapi-users:auth`",
)
def fastapi_users(bench: Bench) -> None:
    after = f"""
from collections.abc import AsyncIterator
from uuid import UUID

from fastapi import Depends
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin, schemas
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTableUUID, Base):
    pass


engine = create_async_engine("sqlite+aiosqlite:///users.db")
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Manager(UUIDIDMixin, BaseUserManager[User, UUID]):
    pass


async def manager():
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as session:
        yield Manager(SQLAlchemyUserDatabase(session, User))


backend = AuthenticationBackend(
    name="jwt",
    transport=BearerTransport(tokenUrl="login"),
    get_strategy=lambda: JWTStrategy(secret="{SETTINGS["JWT_KEY"]}", lifetime_seconds=60),
)
users = FastAPIUsers[User, UUID](manager, [backend])
app.include_router(users.get_auth_router(backend))
app.include_router(users.get_register_router(schemas.BaseUser[UUID], schemas.BaseUserCreate))
app.include_router(users.get_users_router(schemas.BaseUser[UUID], schemas.BaseUserUpdate))
"""
    bench.write_main(after=after)
    json_type = {"Content_Type": "application/json"}
    form_type = {"Content_Type": "application/x-www-form-urlencoded"}
    with bench.serving(JWT_AUDIENCE="fastapi-users:auth") as server:
        body = '{"email": "ann@example.com", "password": "correct horse"}'
        response = server.request("/register", "POST", body=body, **json_type)
        assert response.status == 201, (response, server.log())
        wrong = server.request("/login", "POST", body="username=a@b.co&password=x", **form_type)
        assert wrong.status == 400
        assert wrong.json()["detail"] == "LOGIN_BAD_CREDENTIALS", wrong
        right = "username=ann@example.com&password=correct+horse"
        token = server.request("/login", "POST", body=right, **form_type).json()["access_token"]
        user = server.request("/me", Authorization=f"Bearer {token}")
        assert user.status == 200, (user, server.log())
        assert user.json()["email"] == "ann@example.com"


@package("Authlib", "authlib", "httpx")
def authlib(bench: Bench) -> None:
    after = """
from authlib.integrations.starlette_client import OAuth
from fastapi import Request
from fastapi.responses import Response

oauth = OAuth()
oauth.register(
    "provider",
    client_id="bench",
    authorize_url="https://provider.example/authorize",
    access_token_url="https://provider.example/token",
)


@app.get("/login")
async def login(request: Request) -> Response:
    return await oauth.provider.authorize_redirect(request, "http://localhost/callback")
"""
    bench.write_main(after=after)
    with bench.serving() as server:
        response = server.request("/login")
        assert response.status == 302, (response, server.log())
        assert response.headers["location"].startswith("https://provider.example/authorize")
        assert "set-cookie" in response.headers  # the state of the login, kept by the session


@package("Strawberry GraphQL", "strawberry-graphql[fastapi]")
def strawberry(bench: Bench) -> None:
    after = """
import strawberry
from strawberry.fastapi import GraphQLRouter


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"


app.include_router(GraphQLRouter(strawberry.Schema(Query)), prefix="/graphql")
"""
    bench.write_main(after=after)
    with bench.serving() as server:
        body = '{"query": "{ hello }"}'
        response = server.request("/graphql", "POST", body=body, Content_Type="application/json")
        assert response.status == 200, (response, server.log())
        assert response.json() == {"data": {"hello": "world"}}


@package("python-socketio", "python-socketio", setup='`app.mount("/socket.io", ...)`')
def socketio(bench: Bench) -> None:
    after = """
import socketio

sockets = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=[])
app.mount("/socket.io", socketio.ASGIApp(sockets, socketio_path=""))
"""
    bench.write_main(after=after)
    with bench.serving() as server:
        assert '"sid"' in _page(server, "/socket.io/?EIO=4&transport=polling")


@package(
    "Cadwyn",
    "cadwyn",
    setup="an app without `stack_options` but its `exception_handlers`, and `app.mount`",
)
def cadwyn(bench: Bench) -> None:
    after = """
from cadwyn import Cadwyn, HeadVersion, Version, VersionBundle, VersionedAPIRouter

versioned = VersionedAPIRouter()


@versioned.get("/versioned")
async def get_versioned() -> str:
    return "2000-01-01"


api = Cadwyn(
    versions=VersionBundle(HeadVersion(), Version("2000-01-01")),
    exception_handlers=stack_options(Settings.from_environment())["exception_handlers"],
)
api.generate_and_include_versioned_routers(versioned)
app.mount("/", api)
"""
    bench.write_main(after=after)
    with bench.serving() as server:
        assert_layers_work(server)
        assert _page(server, "/versioned", X_API_Version="2000-01-01") == '"2000-01-01"'


@package("sse-starlette", "sse-starlette", sample=True)
def sse(bench: Bench) -> None:
    after = """
import asyncio
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse


@app.get("/events")
async def events() -> EventSourceResponse:
    async def stream() -> AsyncIterator[dict[str, str]]:
        yield {"data": "first"}
        await asyncio.sleep(3600)

    return EventSourceResponse(stream())
"""
    bench.write_main(after=after)
    with bench.serving() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
        with closing(connection):
            connection.request("GET", "/events", headers={"Accept-Encoding": "gzip"})
            response = connection.getresponse()
            # It comes at once, compressed, while the stream is open.
            decompress = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress
            received = b""
            while b"data: first" not in received:
                received += decompress(response.read1())
            assert response.headers["X-Request-ID"]


@package(
    "dishka",
    "dishka",
    setup=(
        "`own=[innermost(Middleware(ContainerMiddleware))]` and"
        " `app.state.dishka_container = container` instead of `setup_dishka`"
    ),
)
def dishka(bench: Bench) -> None:
    before = """
import asyncio
from collections.abc import AsyncIterator

from dishka import Provider, Scope, make_async_container, provide
from dishka.integrations.fastapi import DishkaRoute, FromDishka
from dishka.integrations.starlette import ContainerMiddleware
from fastapi import APIRouter
from starlette.middleware import Middleware

from .middleware import innermost


class Unit:
    pass


class Units(Provider):
    @provide(scope=Scope.REQUEST)
    async def unit(self) -> AsyncIterator[Unit]:
        crashed = yield Unit()
        print(type(crashed).__name__ if crashed else "committed", flush=True)


container = make_async_container(Units())
"""
    after = """
units = APIRouter(route_class=DishkaRoute)


@units.get("/unit/{how}")
async def unit(how: str, unit: FromDishka[Unit]) -> None:
    if how == "fails":
        raise RuntimeError("no commit")
    if how == "waits":
        await asyncio.sleep(3600)


app.include_router(units)
app.state.dishka_container = container
"""
    bench.write_main(before, "innermost(Middleware(ContainerMiddleware))", after)
    with bench.serving(REQUEST_TIMEOUT="1", QUEUE_TIMEOUT="0") as server:
        # The unit ends after the response.
        for how, status in _ENDS:
            _page(server, f"/unit/{how}", status)
        ends = ["committed", "RuntimeError", "CancelledError", "committed"]
        wait_until(lambda: [line for line in server.log().splitlines() if line in ends] == ends)


@package(
    "fastapi-async-sqlalchemy",
    "fastapi-async-sqlalchemy",
    "aiosqlite",
    "greenlet",
    setup="`own=[innermost(Middleware(SQLAlchemyMiddleware, ...))]`",
)
def fastapi_async_sqlalchemy(bench: Bench) -> None:
    before = """
import asyncio

from fastapi_async_sqlalchemy import SQLAlchemyMiddleware, db
from sqlalchemy import text
from starlette.middleware import Middleware

from .middleware import innermost

URL = "sqlite+aiosqlite:///onions.db"
"""
    after = """

@app.post("/onions/{how}")
async def onions(how: str) -> int | None:
    await db.session.execute(text("CREATE TABLE IF NOT EXISTS onions (id INTEGER)"))
    await db.session.execute(text("INSERT INTO onions VALUES (1)"))
    if how == "fails":
        raise RuntimeError("no commit")
    if how == "waits":
        await asyncio.sleep(3600)
    return (await db.session.execute(text("SELECT count(*) FROM onions"))).scalar()
"""
    own = "innermost(Middleware(SQLAlchemyMiddleware, db_url=URL, commit_on_exit=True))"
    bench.write_main(before, own, after)
    with bench.serving(REQUEST_TIMEOUT="1", QUEUE_TIMEOUT="0") as server:
        counted = [_page(server, f"/onions/{how}", status, "POST") for how, status in _ENDS]
        assert (counted[0], counted[-1]) == ("1", "2")


@package("FastMCP", "fastmcp", setup="`app.mount`, and its lifespan")
def fastmcp(bench: Bench) -> None:
    before = """
from fastmcp import FastMCP

mcp = FastMCP("bench").http_app(path="/")
"""
    after = """
app.router.lifespan_context = mcp.lifespan
app.mount("/mcp", mcp)
"""
    bench.write_main(before, after=after)
    body = (
        '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion":'
        ' "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}}'
    )
    with bench.serving() as server:
        response = server.request(
            "/mcp/",
            "POST",
            body=body,
            Content_Type="application/json",
            Accept="application/json, text/event-stream",
        )
        assert response.status == 200, (response, server.log())
        assert '"serverInfo"' in response.body


@package(
    "FastMCP, `FastMCP.from_fastapi`",
    "fastmcp",
    setup=(
        '`from_fastapi(app, httpx_client_kwargs={"base_url": "https://localhost"})`,'
        " with a host of `ALLOWED_HOSTS`"
    ),
)
def fastmcp_from_fastapi(bench: Bench) -> None:
    bench.write_main()
    code = """
import asyncio

from fastmcp import Client, FastMCP

from app.main import app

mcp = FastMCP.from_fastapi(app, httpx_client_kwargs={"base_url": "https://localhost"})


async def main() -> None:
    async with Client(mcp) as client:
        names = [tool.name for tool in await client.list_tools()]
        (name,) = [name for name in names if name.startswith("ok_")]
        print((await client.call_tool(name)).data)


asyncio.run(main())
"""
    done = bench.run("python", "-c", code)
    assert "{'status': 'ok'}" in done.stdout, done.stdout


@package(
    "loguru",
    "loguru",
    setup="`PropagateHandler` of its documentation, after `logger.remove()`; no `InterceptHandler`",
)
def loguru(bench: Bench) -> None:
    before = """
import logging

from loguru import logger


class PropagateHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)


logger.remove()
logger.add(PropagateHandler(), format="{message}")
"""
    after = """

@app.get("/loguru")
async def loguru() -> None:
    logger.info("of loguru")
"""
    bench.write_main(before, after=after)
    with bench.serving() as server:
        assert_layers_work(server)
        _page(server, "/loguru")
        server.stop()
        assert_logged_once(server.log().splitlines(), {**LINES, "of loguru": 1, "request": 4})


@package(
    "`StaticFiles`, a single-page application",
    "starlette",
    setup="remove the example `GET /` from `app/routes.py`",
)
def spa(bench: Bench) -> None:
    routes = bench.service / "app/routes.py"
    text = routes.read_text("utf-8")
    example = '@router.get("/", include_in_schema=False)'
    assert example in text
    routes.write_text(text.replace(example, ""), "utf-8")
    folder = bench.service / "dist"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><script src=/main.js></script>")
    (folder / "main.js").write_text("document.title = 'ready'\n" * 200)
    bench.write_main(
        after="""
from fastapi.staticfiles import StaticFiles

app.mount("/", StaticFiles(directory="dist", html=True))
"""
    )
    with bench.serving() as server:
        assert "<script" in _page(server, "/")
        response = server.request("/main.js")
        cached = server.request("/main.js", If_None_Match=response.headers["etag"])
        assert (response.status, cached.status) == (200, 304)
        assert server.request("/missing.js").headers["content-type"] == "application/problem+json"
