"""Cross-origin: pages of other sites can't act in the name of a user."""

from collections.abc import Awaitable, Collection
from typing import Annotated, Final

from asgi_cross_origin_protection import CrossOriginProtection
from asgi_cross_origin_protection.origins import parse_trusted_origin
from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode
from starlette.types import ASGIApp, Receive, Scope, Send

from .core.scope import only_header
from .core.setting_types import browser_origin, split_commas
from .problem import refuse

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_SECURE: Final = frozenset({"https", "wss"})
_DEFAULT_PORT: Final = {"http": ":80", "https": ":443"}


class CrossOriginMiddleware:
    """
    Refuse what a browser sends at the wish of another site's page, unless it is `trusted`.

    Over HTTP that is a request that may change something (not GET, HEAD or OPTIONS): judged by
    Sec-Fetch-Site, or by Origin where a browser doesn't send it. A websocket handshake is judged
    by its Origin, since browsers let every page open one. An origin is scheme, host and port;
    one that is sent twice is never trusted. Whoever sends neither header is no browser, can't be
    misled by a page, and passes.
    """

    def __init__(self, app: ASGIApp, *, trusted: Collection[str]) -> None:
        self.app = app
        self.trusted = frozenset(trusted)
        self.protection = CrossOriginProtection(
            app, allowed_origins=list(trusted), deny_app=_refuse
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan" or scope.get("method") in _SAFE:
            return self.app(scope, receive, send)
        names = [name for name, _ in scope["headers"]]
        if names.count(b"origin") > 1 or names.count(b"sec-fetch-site") > 1:
            return _refuse(scope, receive, send)
        if scope["type"] == "http" and b"sec-fetch-site" in names:
            return self.protection(scope, receive, send)
        if b"origin" not in names or self._knows(scope):
            return self.app(scope, receive, send)
        return _refuse(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        """Judge by Origin alone, scheme included; the library leaves the scheme out."""
        origin = (only_header(scope, b"origin") or "").lower()
        return origin in self.trusted or origin in _own_origins(scope)


def _own_origins(scope: Scope) -> tuple[str, ...]:
    host = (only_header(scope, b"host") or "").lower()
    if not host:
        return ()
    scheme = "https" if scope["scheme"] in _SECURE else "http"
    # Browsers leave the default port out, some proxies write it.
    return (f"{scheme}://{host}", f"{scheme}://{host.removesuffix(_DEFAULT_PORT[scheme])}")


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await refuse(
        scope,
        receive,
        send,
        layer="cross_origin",
        status=403,
        detail="Pages of other origins may not do this here.",
    )


def _origin(value: str) -> str:
    origin = browser_origin(value) or ""
    try:
        # What the library refuses it would refuse later, when a server goes on without the app.
        parse_trusted_origin(origin)
    except ValueError:
        msg = f"must be origins such as https://app.example:8443, without a path, not {value!r}"
        raise ValueError(msg) from None
    return origin


TrustedOrigins = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(split_commas)
]
