"""HTTPS redirect: redirects http requests to https."""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import quote

from starlette.status import HTTP_307_TEMPORARY_REDIRECT
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import Layer
from .core.networks import parse_address
from .problem import Refusal

_SECURE: Final = {"http": "https", "ws": "wss"}
_PORT: Final = re.compile(r":\d*$")
_DEFAULT_PORT: Final = re.compile(r":(80|443)?$")
_SAFE: Final = "/%:=@!$&'()*+,;~[]"


class HttpsRedirectMiddleware(Layer):
    """
    Redirect http to https, and ws to wss, with 307.

    After a 307 the client repeats the method and the body (RFC 9110, 15.4.8); its first request
    was still unencrypted. Requests to localhost, to loopback addresses and to `probe_paths` aren't
    redirected. Ports 80 and 443 are left out of the new address, others are kept, as Starlette
    does it. Browsers don't follow redirects of websocket handshakes; the handshake fails.
    """

    def __init__(self, app: ASGIApp, *, probe_paths: Collection[str]) -> None:
        super().__init__(app, exempt_paths=probe_paths)

    def enter(self, exchange: Exchange) -> Refusal | None:
        if exchange.scope["scheme"] not in _SECURE:
            return None
        # Without exactly one Host there is no address; Trusted host has rejected such requests.
        host = exchange.header(b"host") or "localhost"
        if _is_local(_PORT.sub("", host)):
            return None
        return Refusal(
            status=HTTP_307_TEMPORARY_REDIRECT,
            detail="This service requires https.",
            headers={"Location": _location(exchange, host)},
        )


def _is_local(name: str) -> bool:
    name = name.lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = parse_address(name.strip("[]"))
    return address is not None and address.is_loopback


def _location(exchange: Exchange, host: str) -> str:
    secure = f"{_SECURE[exchange.scope['scheme']]}://{_DEFAULT_PORT.sub('', host)}"
    query: bytes = exchange.scope["query_string"]
    return secure + _path(exchange) + ("?" + quote(query, safe=_SAFE + "?") if query else "")


def _path(exchange: Exchange) -> str:
    scope = exchange.scope
    # As it was sent: a decoded %2F or %3F would change the address.
    path = quote(scope.get("raw_path") or scope["path"].encode(), safe=_SAFE)
    if not path.startswith("/"):
        # h11 accepts `GET @evil.example`, which would become a part of the host.
        return "/"
    # A prefix that a proxy removed is only in `root_path`.
    stripped = exchange.path == scope["path"]
    return quote(scope["root_path"].rstrip("/")) + path if stripped else path
