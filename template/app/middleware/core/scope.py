"""What several layers read from an ASGI scope."""

from operator import itemgetter
from typing import Final

from starlette.types import Scope

# `name in map(NAME, headers)` asks a third less than a loop would, on every answer.
NAME: Final = itemgetter(0)


def only_header(scope: Scope, name: bytes) -> str | None:
    """
    Return the value of a header that was sent exactly once, else None.

    Two readers of a doubled header may each believe a different value, so a header that
    decides something is believed only when it stands alone.
    """
    found: bytes | None = None
    for key, value in scope["headers"]:
        if key == name:
            if found is not None:
                return None
            found = value
    return None if found is None else found.decode("latin-1")


def route_path(scope: Scope) -> str:
    """Return the path without the `root_path` under which a proxy serves the service."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    if not root_path:
        return path
    root_path = root_path.rstrip("/")
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
    path = getattr(context, "path", "") or getattr(scope.get("route"), "path", None)
    if path is None or "app_root_path" not in scope:
        return path
    mount = scope["root_path"][len(scope["app_root_path"]) :]
    names = {
        str(value): f"{{{name}}}"
        for name, value in scope.get("path_params", {}).items()
        if f"{{{name}}}" not in path and f"{{{name}:" not in path
    }
    parts = mount.split("/")
    if not names.keys() <= {*parts}:
        return "/{mount}" + path
    return "/".join(names.get(part, part) for part in parts) + path
