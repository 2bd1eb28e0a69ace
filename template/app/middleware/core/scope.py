"""What several layers read from an ASGI scope."""

from typing import Any

from starlette.types import Scope


def complete(scope: Scope) -> None:
    """Put the defaults of the specification where a server left an optional key out."""
    scope.setdefault("query_string", b"")
    scope.setdefault("root_path", "")
    scope.setdefault("client", None)
    if scope["type"] == "http":
        scope.setdefault("scheme", "http")
    else:
        scope.setdefault("scheme", "ws")
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
    `scope["fastapi"]`; the path of `scope["route"]` may lack the prefix. The prefix of a mount
    is known only as it was requested, so the values of its parameters are taken out again;
    where one was spelt in another way, such as 007 for 7, the prefix is `/{mount}`.
    """
    context = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(context, "path", "") or getattr(_route(scope), "path", None)
    mount: str = scope["root_path"][len(scope.get("app_root_path", scope["root_path"])) :]
    if path is None or not mount:
        return path
    names = {
        str(value): f"{{{name}}}"
        for name, value in scope.get("path_params", {}).items()
        if f"{{{name}}}" not in path and f"{{{name}:" not in path
    }
    parts = mount.split("/")
    if not names.keys() <= {*parts}:
        return "/{mount}" + path
    return "/".join(names.get(part, part) for part in parts) + path


def _route(scope: Scope) -> Any:
    """Return the route that was taken: Starlette's own, such as `/docs`, leave their endpoint."""
    if "route" in scope or "endpoint" not in scope:
        return scope.get("route")
    endpoint = scope["endpoint"]
    routes = scope["app"].routes
    return next((route for route in routes if getattr(route, "endpoint", None) is endpoint), None)
