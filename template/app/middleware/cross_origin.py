"""Cross-origin: blocks forged requests from other sites (CSRF)."""

from collections.abc import Collection, MutableMapping
from typing import Annotated, Any, Final

from asgi_cross_origin_protection import CrossOriginProtection
from asgi_cross_origin_protection.origins import parse_trusted_origin
from pydantic import AfterValidator
from starlette.types import ASGIApp

from .core.exchange import HANDSHAKE, Exchange
from .core.layer import Layer
from .core.setting_types import check_origin
from .core.threads import nothing, run_at_once
from .problem import Refusal

_ADMITTED: Final = "cross_origin.admitted"
_REFUSAL: Final = Refusal(status=403, detail="Pages of other origins can't send this request.")
# What browsers send by themselves once a user has logged in (RFC 7617, 7616, 4559).
_SENT_BY_BROWSERS: Final = frozenset({b"basic", b"digest", b"negotiate", b"ntlm"})
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "QUERY"})
_SECURE: Final = frozenset({"https", "wss"})
_DEFAULT_PORT: Final = {"http": ":80", "https": ":443"}


class CrossOriginMiddleware(Layer):
    """
    Return 403 to requests that a page of another origin sends, unless the origin is `trusted`.

    Checks HTTP requests that can change something (not GET, HEAD, OPTIONS or QUERY) by
    Sec-Fetch-Site, or by Origin if the browser doesn't send that. Checks websocket handshakes by
    Origin, because browsers let every page open them. An origin is scheme, host and port; one that
    is sent twice is never trusted. A client that sends neither header isn't a browser, and passes.
    So does an HTTP request with one of the headers `credentials` and without a cookie: a page can
    add these only if CORS allows it.
    """

    def __init__(
        self, app: ASGIApp, *, trusted: Collection[str], credentials: Collection[str] = ()
    ) -> None:
        super().__init__(app)
        self.trusted = frozenset(trusted)
        self.credentials = [name.lower().encode("ascii") for name in credentials]
        self.protection = CrossOriginProtection(
            _admit, allowed_origins=list(trusted), deny_app=nothing
        )

    def spares(self, path: str, method: str) -> bool:
        return method in _SAFE or super().spares(path, method)

    def enter(self, exchange: Exchange) -> Refusal | None:
        if exchange.method in _SAFE or self._needs_cors(exchange):
            return None
        headers = exchange.headers
        if headers.get(b"origin", b"") is None or headers.get(b"sec-fetch-site", b"") is None:
            return _REFUSAL
        if exchange.scope["type"] == "http" and b"sec-fetch-site" in headers:
            admitted = self._admits(exchange)
        else:
            admitted = b"origin" not in headers or self._knows(exchange)
        return None if admitted else _REFUSAL

    def _admits(self, exchange: Exchange) -> bool:
        """Ask the library, which reads Sec-Fetch-Site."""
        verdict = {**exchange.scope, _ADMITTED: False}
        run_at_once(self.protection(verdict, exchange.receive, exchange.send))
        return bool(verdict[_ADMITTED])

    def _needs_cors(self, exchange: Exchange) -> bool:
        """Return whether a page needed a preflight for the credential, and sent no cookie."""
        headers = exchange.headers
        if exchange.method == HANDSHAKE or b"cookie" in headers:
            return False
        sent = (headers[name] or b"" for name in self.credentials if name in headers)
        return any(value.lower().partition(b" ")[0] not in _SENT_BY_BROWSERS for value in sent)

    def _knows(self, exchange: Exchange) -> bool:
        """Check Origin alone, with the scheme, which the library leaves out."""
        origin = (exchange.header(b"origin") or "").lower()
        return origin in self.trusted or origin in _own_origins(exchange)


async def _admit(scope: MutableMapping[str, Any], *_: object) -> None:
    """Act as the app that the library calls."""
    scope[_ADMITTED] = True


def _own_origins(exchange: Exchange) -> tuple[str, ...]:
    host = (exchange.header(b"host") or "").lower()
    if not host:
        return ()
    scheme = "https" if exchange.scope["scheme"] in _SECURE else "http"
    host = host.removesuffix(":")  # with an empty port (RFC 3986, 3.2.3)
    # Browsers leave out the default port; some proxies add it.
    return (f"{scheme}://{host}", f"{scheme}://{host.removesuffix(_DEFAULT_PORT[scheme])}")


def _origin(value: str) -> str:
    origin = check_origin(value, instead="list the origins")
    try:
        # At start, because the library refuses it only at the first request.
        parse_trusted_origin(origin)
    except ValueError:
        msg = f"must be origins such as https://app.example:8443, without a path, not {value!r}"
        raise ValueError(msg) from None
    return origin


TrustedOrigins = tuple[Annotated[str, AfterValidator(_origin)], ...]
