"""Security headers: adds CSP, HSTS, nosniff and others to every response."""

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Final, Literal, get_args

from fastapi import FastAPI
from pydantic import AfterValidator
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Send

from .core.exchange import Addition, Exchange, Filter
from .core.headers import Clash, HeaderRule, Headers, first
from .core.layer import HTTP, Layer
from .core.reading import in_any_case
from .core.setting_types import HeaderValue

_Resource = Literal["same-origin", "same-site", "cross-origin"]
ResourcePolicy = Annotated[_Resource, in_any_case(*get_args(_Resource))]

_RULE: Final = HeaderRule(
    dict.fromkeys(
        (
            b"content-security-policy",
            b"cross-origin-resource-policy",
            b"permissions-policy",
            b"referrer-policy",
            b"strict-transport-security",
            b"x-content-type-options",
            b"x-frame-options",
        ),
        Clash.KEEP,
    )
)
_HTML: Final = (b"text/html", b"application/xhtml+xml")
_INLINE_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_SPARING: Final = frozenset({b"accept-encoding", b"if-none-match"})
_DOCS_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " connect-src 'self'; worker-src blob:; font-src https://fonts.gstatic.com;"
    " img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly;"
    " style-src{} https://cdn.jsdelivr.net/npm/ https://fonts.googleapis.com;"
    " script-src https://cdn.jsdelivr.net/npm/{}"
)


class SecurityHeadersMiddleware(Layer):
    """
    Add the headers that OWASP recommends for APIs to every response.

    Headers that an endpoint sets are kept. `referrer_policy` and `permissions_policy` are sent
    with HTML only, where browsers read them. HSTS is sent over https only (RFC 6797, 7.2), with
    `hsts_max_age` in seconds, and covers subdomains. The pages of Swagger UI and ReDoc, those of
    mounted apps too, get their own policy with the hash of their inline script.
    """

    scopes = HTTP

    def __init__(
        self,
        app: ASGIApp,
        *,
        content_security_policy: str,
        hsts_max_age: int,
        referrer_policy: str,
        permissions_policy: str,
        cross_origin_resource_policy: str,
    ) -> None:
        super().__init__(app)
        self.over_http = [
            (b"content-security-policy", content_security_policy.encode()),
            (b"cross-origin-resource-policy", cross_origin_resource_policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
        ]
        hsts = f"max-age={hsts_max_age}; includeSubDomains"
        self.over_https = [*self.over_http, (b"strict-transport-security", hsts.encode())]
        self.for_html = [
            (b"referrer-policy", referrer_policy.encode()),
            (b"permissions-policy", permissions_policy.encode()),
        ]

    def enter(self, exchange: Exchange) -> None:
        app = exchange.scope.get("app")
        if isinstance(app, FastAPI) and exchange.path in _docs_paths(app, len(app.router.routes)):
            # The script is read from the page, so the page must be complete and unencoded.
            exchange.drop_headers(_SPARING)
            exchange.at_head(self._hold_page)

    def head(self, exchange: Exchange, message: Message) -> Addition:
        over_https = exchange.scope["scheme"] == "https"
        headers = self.over_https if over_https else self.over_http
        return _RULE, headers + self.for_html if _is_html(message["headers"]) else headers

    def _hold_page(self, exchange: Exchange, message: Message) -> Filter | None:
        if exchange.method == "HEAD" or not _is_html(message["headers"]):
            return None
        return lambda send: _DocsPage(send).send


def _is_html(headers: Headers) -> bool:
    return (first(headers, b"content-type") or b"").startswith(_HTML)


class _DocsPage:
    """Delays the head of a documentation page until its inline script is known."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        policy = (b"content-security-policy", _docs_policy(self._body))
        await self._send({**self._start, "headers": [*self._start["headers"], policy]})
        await self._send({**message, "body": self._body})


def _docs_policy(page: bytes) -> bytes:
    digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(page))
    hashes = [f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    # Only ReDoc writes styles into its page.
    styles = " 'unsafe-inline'" if b"<redoc " in page else ""
    return _DOCS_POLICY.format(styles, "".join(hashes)).encode()


@lru_cache(maxsize=8)
def _docs_paths(app: FastAPI, _: int) -> frozenset[str]:
    """Return the paths of the documentation pages while the app has so many routes."""
    return frozenset(_pages(app, ""))


def _pages(app: FastAPI, prefix: str) -> Iterator[str]:
    """Yield the paths of the documentation pages of an app and of those mounted in it."""
    for url in (app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url):
        if url:
            yield prefix + url
    for route in app.routes:
        if isinstance(route, Mount) and isinstance(route.app, FastAPI):
            yield from _pages(route.app, prefix + route.path)


def _content_security(value: str) -> str:
    """Reject directives that browsers ignore silently."""
    for directive in filter(str.strip, value.split(";")):
        name, *sources = directive.split()
        if not re.fullmatch(r"[A-Za-z-]+", name):
            msg = (
                "must be directives such as default-src 'none', with ; between them and without"
                f" the name of the header, not {directive.strip()!r}"
            )
            raise ValueError(msg)
        bare = next((source for source in sources if source.lower() in _KEYWORDS), None)
        if bare and (name.endswith("-src") or name in {"base-uri", "form-action"}):
            msg = f"must have keywords in quotes; write '{bare.lower()}', not {directive.strip()!r}"
            raise ValueError(msg)
    return value


def _referrer(value: str) -> str:
    names = [name.strip().lower() for name in value.split(",") if name.strip()]
    if wrong := next((name for name in names if name not in _REFERRER_POLICIES), None):
        msg = f"must be one of {', '.join(_REFERRER_POLICIES)}, not {wrong!r}"
        raise ValueError(msg)
    return ", ".join(names)


def _permissions(value: str) -> str:
    """Reject an invalid dictionary (RFC 9651), which browsers ignore as a whole."""
    for item in filter(str.strip, value.split(",")):
        if not _PERMISSION.fullmatch(item.strip()):
            msg = (
                "must be features and who can use them, such as camera=(), fullscreen=(self),"
                f" with commas between them, not {item.strip()!r}"
            )
            raise ValueError(msg)
    return value.strip().rstrip(",")


_KEYWORDS: Final = frozenset(
    {"none", "self", "strict-dynamic", "unsafe-eval", "unsafe-hashes", "unsafe-inline"}
)
_REFERRER_POLICIES: Final = (
    "no-referrer",
    "no-referrer-when-downgrade",
    "origin",
    "origin-when-cross-origin",
    "same-origin",
    "strict-origin",
    "strict-origin-when-cross-origin",
    "unsafe-url",
)
_PERMISSION: Final = re.compile(
    r"""[a-z][a-z0-9-]*=(\*|self|src|\(\s*((\*|self|src|"https?://[^\s"]+")\s*)*\))"""
    r"""(\s*;\s*report-to=[A-Za-z"][\w."-]*)?"""
)
ContentSecurityPolicy = Annotated[HeaderValue, AfterValidator(_content_security)]
ReferrerPolicy = Annotated[HeaderValue, AfterValidator(_referrer)]
PermissionsPolicy = Annotated[HeaderValue, AfterValidator(_permissions)]
