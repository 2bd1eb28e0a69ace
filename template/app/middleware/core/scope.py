"""What several layers read from an ASGI scope."""

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
