"""Request id: one id for a request, in its answer, its log lines and its errors."""

import re
from collections.abc import Awaitable
from os import urandom
from typing import Annotated, Final

from pydantic import AfterValidator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .core.scope import NAME, only_header
from .core.setting_types import HeaderName
from .log import bind, unbind

_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
# What frames a message, or tells something else in a request or an answer.
_TAKEN: Final = re.compile(
    r"accept(-.*)?|access-control-.*|age|allow|alt-svc|authentication-info|authorization"
    r"|cache-control|clear-site-data|connection|content-.*|cookie|cross-origin-.*|date|etag"
    r"|expect|expires|forwarded|from|host|idempotency-key|if-.*|keep-alive|last-modified|link"
    r"|location|max-forwards|origin|permissions-policy|pragma|proxy-.*|range|ratelimit(-.*)?"
    r"|referer|referrer-policy|refresh|retry-after|sec-.*|server|server-timing|set-cookie"
    r"|strict-transport-security|te|trailer|transfer-encoding|upgrade|user-agent|vary|via"
    r"|warning|www-authenticate|x-content-type-options|x-frame-options"
    r"|x-forwarded-(for|host|port|prefix|proto)",
    re.IGNORECASE,
)
_STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)


class RequestIdMiddleware:
    """
    Give each request an id and send it back under `header`.

    A client's own id is kept if it is 1 to 128 of `[A-Za-z0-9._-]`, so that it can't forge a
    log line; any other, and a doubled one, is replaced. Endpoints read it from
    `request.state.request_id`. A websocket carries it on the answer to its handshake.
    """

    def __init__(self, app: ASGIApp, *, header: str) -> None:
        self.app = app
        self.header = header.lower().encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request_id = only_header(scope, self.header)
        if request_id is None or not _ACCEPTED.fullmatch(request_id):
            request_id = urandom(16).hex()
        scope.setdefault("state", {})["request_id"] = request_id
        header = (self.header, request_id.encode("ascii"))

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] in _STARTS:
                headers = message.get("headers", [])
                if self.header in map(NAME, headers):
                    headers = [item for item in headers if item[0] != self.header]
                message = {**message, "headers": [*headers, header]}
            return send(message)

        token = bind(request_id=request_id)
        await self.app(scope, receive, send_with_id)
        # An exception leaves the id bound on purpose: the server's line about it carries it.
        unbind(token)


def _own_name(value: str) -> str:
    if _TAKEN.fullmatch(value):
        msg = f"must be a header that has no other meaning, such as X-Request-ID, not {value!r}"
        raise ValueError(msg)
    return value


RequestIdHeader = Annotated[HeaderName, AfterValidator(_own_name)]
