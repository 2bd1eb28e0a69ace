"""What several layers read from an ASGI scope."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount, compile_path
from starlette.types import Scope


def complete(scope: Scope) -> None:
    """Put the defaults of the specification where a server left an optional key out."""
    # Servers send nearly all of them, and a look is cheaper than a call.
    if "query_string" not in scope:
        scope["query_string"] = b""
    if "root_path" not in scope:
        scope["root_path"] = ""
    if "client" not in scope:
        scope["client"] = None
    if "scheme" not in scope:
        scope["scheme"] = "http" if scope["type"] == "http" else "ws"
    if scope["type"] != "http":
        scope.setdefault("http_version", "1.1")
        scope.setdefault("subprotocols", ())
    if type(scope["headers"]) is not list:
        scope["headers"] = list(scope["headers"])


def headers_by_name(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes | None]:
    """Return the value of each header, None for one that was sent more than once."""
    found: dict[bytes, bytes | None] = dict(headers)
    if len(found) < len(headers):
        seen: set[bytes] = set()
        for name, _ in headers:
            if name in seen:
                found[name] = None
            seen.add(name)
    return found


def can_respond(scope: Scope) -> bool:
    """Return whether a response can be sent: to a handshake, only with an extension of ASGI."""
    extensions = scope.get("extensions") or ()
    return scope["type"] != "websocket" or "websocket.http.response" in extensions


def route_path(scope: Scope) -> str:
    """Return the path without the `root_path` under which a proxy serves the service."""
    path: str = scope["path"]
    if not scope.get("root_path"):
        return path
    root_path: str = scope["root_path"].rstrip("/")
    if root_path and (path == root_path or path.startswith(root_path + "/")):
        return path[len(root_path) :]
    return path


def route_template(scope: Scope) -> str | None:
    """
    Return the full path template of the route that was taken, None where none was.

    FastAPI keeps the template of an included router's route, with its prefix, in
    `scope["fastapi"]`; the path of `scope["route"]` may lack the prefix. The scope has the
    prefix of a mount only as it was requested, so its template is looked up in the routes. Of a
    mount inside which no route was taken, such as one of static files, it is that of all its paths,
    as FastAPI's spans have it.
    """
    context = scope["fastapi"].get("effective_route_context") if "fastapi" in scope else None
    path = getattr(context, "path", "") or getattr(_route(scope), "path", None)
    if "app_root_path" not in scope:
        return path
    mount: str = scope["root_path"][len(scope["app_root_path"]) :]
    routes = getattr(scope.get("router"), "routes", ())
    template = _mount_template(routes, mount) if mount else ""
    return template + ("/{path}" if path is None else path)


def _mount_template(routes: Sequence[BaseRoute], mount: str) -> str:
    """Return the path of the mount, or of several one inside the other, that took `mount`."""
    for context in iter_route_contexts(routes):
        if isinstance(context.original_route, Mount):
            pattern, template = _below(context.path or "")
            match = pattern.match(mount + "/")
            if match is not None:
                inner = "/" + match["path"].rstrip("/")
                if inner == "/":
                    return template
                return template + _mount_template(context.original_route.routes, inner)
    return "/{mount}"  # of a kind that hides its path; what clients send must make no label


@lru_cache(maxsize=256)
def _below(path: str) -> tuple[re.Pattern[str], str]:
    """Return what matches the paths below that of a mount, and its template."""
    pattern, template, _ = compile_path(path + "/{path:path}")
    return pattern, template.removesuffix("/{path}")


def _route(scope: Scope) -> Any:
    """Return the route that was taken: Starlette's own, such as `/docs`, leave their endpoint."""
    route = scope.get("route")
    if isinstance(route, Mount):
        route = None  # it leads to the one that was taken
    if route is not None or "endpoint" not in scope:
        return route
    endpoint = scope["endpoint"]
    routes = scope["app"].routes
    return next((route for route in routes if getattr(route, "endpoint", None) is endpoint), None)
