"""
The table of policies against the real router: both name the same route for every request.

Runs in a rendered service (`tests/test_driver.py`). For random apps, tables and requests, the
endpoint that runs says which route the router took, and the rule has to be that of its entry.
"""

import asyncio
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.routing import Host, Mount
from starlette.types import Message, Receive, Scope, Send

from app.middleware import StackSettings
from app.middleware.core.policies import Field, Policies

LOOP = asyncio.new_event_loop()
# Of a frontend, which serves what is in it.
DIRECTORY = tempfile.mkdtemp()
EXAMPLES = int(os.environ.get("EXAMPLES", "250"))
REQUESTS = 20
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "DELETE")
PARTS = ("a", "b", "a.b", "é", "{x}", "{n:int}", "{x}-b", "{r:path}")
SENT = ("a", "b", "a.b", "é", "7", "007", "x-b", "", ".", "..", "a\n", "\n", "a b", "A", "a%2Fb")
ROOTS = ("", "", "", "/a", "/a/", "/root", "a")

parts = st.lists(st.sampled_from(PARTS), min_size=0, max_size=3).filter(
    lambda found: all(found.count(part) == 1 for part in found if "{" in part)
    and not {"{x}", "{x}-b"} <= {*found}
)
templates = st.builds(lambda found, end: "/" + "/".join(found) + end, parts, st.sampled_from(["", "/"]))
literals = st.lists(st.sampled_from(["a", "b", "{m}"]), max_size=2, unique=True).map(
    lambda found: "".join(f"/{part}" for part in found)
)


@dataclass(frozen=True)
class Made:
    """A route of a random app: `kind` says how it gets there."""

    template: str
    methods: tuple[str, ...]
    kind: str
    prefixes: tuple[str, str]


@dataclass(frozen=True)
class Asked:
    """A request of a random client."""

    kind: str
    method: str
    path: str
    root: str


made = st.builds(
    Made,
    templates,
    st.lists(st.sampled_from(METHODS), min_size=1, max_size=2, unique=True).map(tuple),
    st.sampled_from(
        ["api", "api", "api", "plain", "websocket", "mount", "host", "frontend", "default"]
    ),
    st.sampled_from([("", ""), ("", ""), ("/a", ""), ("/{m}", ""), ("/a", "/b"), ("", "/{m}")]),
)
Seen = list[tuple[str, str, frozenset[str] | None]]


def sent(route: Made, values: list[str]) -> str:
    """Return a path that fits the template, or nearly does."""
    fillers = iter(values)
    path = re.sub(r"\{[^}]*\}", lambda _: next(fillers, "a"), full(route))
    return path.rstrip("/") + "/7" if route.kind in {"mount", "frontend"} else path


def requests_for(routes: list[Made]) -> st.SearchStrategy[Asked]:
    """Return requests that are mostly for one of the routes, spelt in ways that differ."""
    fitting = st.builds(
        sent, st.sampled_from(routes), st.lists(st.sampled_from(SENT), min_size=6, max_size=6)
    )
    others = st.lists(st.sampled_from(SENT), max_size=5).map(lambda found: "/" + "/".join(found))
    return st.builds(
        lambda kind, method, path, end, root, prefixed: Asked(
            kind, method, (root if prefixed else "") + path + end, root
        ),
        st.sampled_from(["http", "http", "http", "websocket"]),
        st.sampled_from([*METHODS, *(route.methods[0] for route in routes), "PUT", "get"]),
        fitting | fitting | fitting | others,
        st.sampled_from(["", "", "", "/", "\n", "//"]),
        st.sampled_from(ROOTS),
        st.sampled_from([True, True, False]),
    )


def full(route: Made) -> str:
    return "".join(route.prefixes) + route.template


def build(routes: list[Made], seen: Seen) -> FastAPI:
    app = FastAPI(openapi_url=None)
    for route in routes:
        outer, inner = APIRouter(), APIRouter()
        whole = route.prefixes == ("", "") or route.kind in {"host", "default"}
        target: Any = app if whole else inner
        try:
            add(target, route, seen)
            if target is inner:
                outer.include_router(inner, prefix=route.prefixes[1])
                app.include_router(outer, prefix=route.prefixes[0])
        except (AssertionError, ValueError, IndexError):
            continue  # no path that a router takes
        except Exception as exc:  # FastAPI has a class of its own for some
            if type(exc).__name__ != "FastAPIError":
                raise
    return app


def below_of(route: Made) -> str:
    """Return the template of what takes the paths below its own, or all of them."""
    prefix = "" if route.kind in {"host", "default"} else full(route).rstrip("/")
    return f"{prefix}/{{path:path}}"


def add(target: Any, route: Made, seen: Seen) -> None:
    template = full(route)

    def note(kind: str, methods: frozenset[str] | None) -> None:
        seen.append((kind, below if route.kind == "frontend" else template, methods))

    async def endpoint() -> Response:
        note("http", frozenset(route.methods))
        return Response()

    async def plain(_: Request) -> Response:
        note("http", frozenset({*route.methods, *({"HEAD"} if "GET" in route.methods else ())}))
        return Response()

    async def socket(websocket: WebSocket) -> None:
        note("websocket", frozenset({"WEBSOCKET"}))
        await websocket.close()

    async def frontend() -> None:
        note("http", frozenset({"GET", "HEAD"}))

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((route.kind, below, None))
        if scope["type"] == "http":
            await Response()(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    router = target.router if isinstance(target, FastAPI) else target
    below = below_of(route)
    match route.kind:
        case "api":
            target.add_api_route(route.template, endpoint, methods=[*route.methods])
        case "plain":
            target.add_route(route.template, plain, methods=[*route.methods])
        case "websocket":
            target.add_api_websocket_route(route.template, socket)
        case "mount":
            if "path}" in template:
                msg = "the same name twice"
                raise ValueError(msg)
            router.routes.append(Mount(route.template, app=asgi))
        case "frontend":
            # Of a router of its own, since all of one have the same dependencies.
            served = APIRouter(dependencies=[Depends(frontend)])
            served.frontend(route.template, directory=DIRECTORY)
            target.include_router(served)
        case "default":
            router.default = asgi
        case _:
            router.routes.append(Host("a.example", app=asgi))


def entry_of(
    table: Mapping[str, Any], template: str, method: str, methods: frozenset[str] | None
) -> str | None:
    """Return the entry that has to hold, by the words of the documentation."""
    names = [method]
    if method == "HEAD" and (methods is None or "GET" in methods):
        names.append("GET")
    best: tuple[Any, ...] | None = None
    for entry in table:
        name, _, path = entry.rpartition(" ")
        if name and name not in names:
            continue
        below = path.endswith("/*")
        if not (path == template or (below and template.startswith(path[:-1]))):
            continue
        rank = (not below, len(path), bool(name), name == method, entry)
        best = rank if best is None or rank > best else best
    return None if best is None else str(best[-1])


entries = st.builds(
    lambda method, prefix, path, below: (method + prefix + path).rstrip("/") + "/*"
    if below
    else method + prefix + path,
    st.sampled_from(["", "", "GET ", "POST ", "HEAD ", "OPTIONS ", "WEBSOCKET "]),
    st.sampled_from(["", "/a", "/{m}", "/a/b"]),
    templates,
    st.booleans(),
)


@st.composite
def tables(draw: Callable[..., Any], routes: list[Made]) -> dict[str, dict[str, Any]]:
    """Return a table, mostly of entries that the app has routes for."""
    own = [
        method + (full(route) if route.kind in {"api", "plain", "websocket"} else below_of(route))
        for route in routes
        for method in ("", f"{route.methods[0]} ")
    ]
    chosen = draw(st.lists(st.sampled_from(own) | entries, min_size=1, max_size=6, unique=True))
    return {name: {"switched": True} for name in chosen if name.rpartition(" ")[2][:1] == "/"}


async def run(app: FastAPI, scope: Scope) -> None:
    async def receive() -> Message:
        return {"type": "websocket.connect" if scope["type"] == "websocket" else "http.request"}

    async def send(_: Message) -> None:
        pass

    try:
        await app(scope, receive, send)
    except Exception:  # noqa: BLE001, S110 - what a request fails with is not the question
        pass


def scope_of(request: Asked, host: bool) -> Scope:  # noqa: FBT001
    path = request.path
    scope: Scope = {
        "type": request.kind,
        "http_version": "1.1",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "root_path": request.root,
        "headers": [(b"host", b"a.example" if host else b"b.example")],
    }
    if request.kind == "http":
        scope["method"] = request.method
    else:
        scope["subprotocols"] = []
    return scope


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.too_slow,
    ],
    print_blob=False,
    database=None,
)
@given(st.data())
def test_the_table_and_the_router_take_the_same_route(data: st.DataObject) -> None:
    routes = data.draw(st.lists(made, min_size=1, max_size=8))
    seen: Seen = []
    app = build(routes, seen)
    wanted = data.draw(tables(routes))
    table: dict[str, dict[str, Any]] = {}
    paths: set[tuple[str, str]] = set()
    for name, policy in wanted.items():
        method, _, path = name.rpartition(" ")
        if (method, path) not in paths and path.count("path}") < 2:
            paths.add((method, path))
            table[name] = policy
    try:
        policies = Policies(
            table,
            fields={"switched": Field("no_layer", "argument")},
            settings=StackSettings(_env_file=None),
            stack=[],
        )
    except SystemExit:
        return  # no path of a route, such as one that names a parameter twice
    requests = data.draw(st.lists(requests_for(routes), min_size=REQUESTS, max_size=REQUESTS))
    for number, request in enumerate(requests):
        scope = scope_of(request, host=number % 5 == 0)
        rule = policies.rule_for({**scope, "app": app})
        seen.clear()
        LOOP.run_until_complete(run(app, scope))
        expected = None
        if seen:
            _, template, methods = seen[0]
            # An app of one's own may take `get` for GET.
            method = request.method.upper() if request.kind == "http" else "WEBSOCKET"
            expected = entry_of(table, template, method, methods)
        assert (rule.name if rule else None) == expected, (request, routes, table)
