"""Security headers: what tells a browser to distrust, on every answer."""

import base64
import hashlib
import re
from collections.abc import Awaitable
from functools import lru_cache
from typing import Final, Literal

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .core.scope import NAME, route_path

ResourcePolicy = Literal["same-origin", "same-site", "cross-origin"]
Headers = list[tuple[bytes, bytes]]

_INLINE_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_SPARING: Final = frozenset({b"accept-encoding", b"if-none-match"})
_DOCS_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " connect-src 'self'; worker-src blob:; font-src https://fonts.gstatic.com;"
    " img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly;"
    " style-src 'unsafe-inline' https://cdn.jsdelivr.net/npm/ https://fonts.googleapis.com;"
    " script-src https://cdn.jsdelivr.net/npm/"
)


class SecurityHeadersMiddleware:
    """
    Add what OWASP tells APIs to send to every answer, refusals and 500 included.

    What an endpoint set itself is kept. HSTS goes out over https only (RFC 6797, 7.2), with
    `hsts_max_age` in seconds, and binds subdomains as well. The pages of Swagger UI and ReDoc
    get a policy of their own, in which their one inline script is named by its hash.
    """

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
        self.app = app
        values = {
            "content-security-policy": content_security_policy,
            "referrer-policy": referrer_policy,
            "permissions-policy": permissions_policy,
            "cross-origin-resource-policy": cross_origin_resource_policy,
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
        }
        hsts = {"strict-transport-security": f"max-age={hsts_max_age}; includeSubDomains"}
        self._over_http = [(name.encode(), value.encode()) for name, value in values.items()]
        self._over_https = [
            *self._over_http,
            *((name.encode(), value.encode()) for name, value in hsts.items()),
        ]
        self._names = frozenset(name for name, _ in self._over_https)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        ours = self._over_https if scope["scheme"] == "https" else self._over_http

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = {**message, "headers": self._completed(message.get("headers", []), ours)}
            return send(message)

        if route_path(scope) in _docs_paths(scope["app"]):
            # The script is read from the page, which therefore has to come whole and as it is.
            scope["headers"] = [item for item in scope["headers"] if item[0] not in _SPARING]
            return self.app(scope, receive, _DocsPage(send_with_headers).send)
        return self.app(scope, receive, send_with_headers)

    def _completed(self, theirs: Headers, ours: Headers) -> Headers:
        if self._names.isdisjoint(map(NAME, theirs)):
            return [*theirs, *ours]
        names = dict(theirs)
        return [*theirs, *(header for header in ours if header[0] not in names)]


class _DocsPage:
    """Holds the head of a documentation page back until its inline script is known."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if self._start is None or message.get("more_body", False):
            return
        policy = (b"content-security-policy", _docs_policy(self._body))
        await self._send({**self._start, "headers": [*self._start["headers"], policy]})
        await self._send({**message, "body": self._body})


def _docs_policy(page: bytes) -> bytes:
    digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(page))
    hashes = [f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    return (_DOCS_POLICY + "".join(hashes)).encode()


@lru_cache(maxsize=8)
def _docs_paths(app: FastAPI) -> frozenset[str | None]:
    return frozenset({app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url})
