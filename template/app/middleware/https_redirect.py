"""HTTPS redirect: leads clients that come in clear to the same address over https."""

import re
from collections.abc import Collection
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from starlette.types import ASGIApp, Scope

from .core.exchange import Exchange
from .core.layer import Layer
from .core.networks import parse_address
from .core.scope import route_path
from .problem import Refusal

_SECURE: Final = {"http": "https", "ws": "wss"}
_PORT: Final = re.compile(r":\d+$")
_DEFAULT_PORT: Final = re.compile(r":(80|443)$")
_SAFE: Final = "/%:=@!$&'()*+,;~[]"


class HttpsRedirectMiddleware(Layer):
    """
    Answer 307 to a request over http, and to a websocket over ws, with the same address over TLS.

    A 307 makes the client repeat method and body (RFC 9110, 15.4.8); the first request went in
    clear all the same. Requests for localhost, for a loopback address and for `probe_paths`
    are served as they come. Starlette's rule for ports: 80 and 443 are left out, others kept.
    A browser does not follow a redirected websocket handshake: it fails there.
    """

    def __init__(self, app: ASGIApp, *, probe_paths: Collection[str]) -> None:
        super().__init__(app, exempt_paths=probe_paths)

    def enter(self, exchange: Exchange) -> Refusal | None:
        if exchange.scope["scheme"] not in _SECURE:
            return None
        # Without one Host there is nowhere to lead; whoever checks Host has refused that.
        host = exchange.header(b"host") or "localhost"
        if _is_local(_PORT.sub("", host)):
            return None
        return Refusal(
            status=HTTPStatus.TEMPORARY_REDIRECT,
            detail="This service requires https.",
            headers={"Location": _location(exchange.scope, host)},
        )


def _is_local(name: str) -> bool:
    name = name.lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = parse_address(name.strip("[]"))
    return address is not None and address.is_loopback


def _location(scope: Scope, host: str) -> str:
    secure = f"{_SECURE[scope['scheme']]}://{_DEFAULT_PORT.sub('', host)}"
    query: bytes = scope.get("query_string", b"")
    return secure + _path(scope) + ("?" + quote(query, safe=_SAFE + "?") if query else "")


def _path(scope: Scope) -> str:
    # As it was sent: a decoded %2F or %3F would lead elsewhere.
    path = quote(scope.get("raw_path") or scope["path"].encode(), safe=_SAFE)
    if not path.startswith("/"):
        # h11 passes `GET @evil.example` on, which would become a part of the host.
        return "/"
    # A proxy that takes a prefix off leaves it in `root_path` alone.
    stripped = route_path(scope) == scope["path"]
    return quote(scope.get("root_path", "").rstrip("/")) + path if stripped else path
