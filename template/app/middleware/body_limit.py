"""Body limit: answers 413 to a request whose body is too large."""

from collections.abc import Awaitable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .core.connection_close import Upload, refuse_and_close
from .core.scope import NAME, only_header

# HTTP/1 announces a body by one of these (RFC 9112, 6.3); HTTP/2 needs none.
_ANNOUNCEMENTS: Final = frozenset({b"content-length", b"transfer-encoding"})
_TOO_LARGE: Final = 413


class BodyLimitMiddleware:
    """
    Answer 413 once a body passes `max_bytes`, and close the connection (RFC 9110, 15.5.14).

    A body that declares its length is refused before it is read, or invited by `100 Continue`;
    any other is counted as it arrives, so nothing inside sees more than the limit. Websockets
    pass through: the server limits their messages (`--ws-max-size`).
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        names = map(NAME, scope["headers"])
        if scope["http_version"][0] == "1" and _ANNOUNCEMENTS.isdisjoint(names):
            return self.app(scope, receive, send)
        body = _Body(scope, receive, send, max_bytes=self.max_bytes)
        # A float, since `int` refuses numbers of thousands of digits.
        length = only_header(scope, b"content-length") or ""
        if length.isdecimal() and float(length) > self.max_bytes:
            return body.refuse()
        return self._limit(body, scope)

    async def _limit(self, body: "_Body", scope: Scope) -> None:
        try:
            await self.app(scope, body.receive, body.send)
        except Exception:
            # What fails inside for want of the rest of the body has been answered.
            if not body.refused:
                raise


class _Body:
    """Counts the body of one request; once it is refused, nothing else is answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, max_bytes: int) -> None:
        self._scope = scope
        self._upload = Upload(scope, receive)
        self._send = send
        self._max_bytes = max_bytes
        self._bytes = 0
        self._started = False
        self.refused = False

    async def receive(self) -> Message:
        message = await self._upload.receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._max_bytes:
            if not (self._started or self.refused):
                await self.refuse()
            # An HTTPException, because FastAPI takes any other for a broken body: 400.
            raise HTTPException(_TOO_LARGE)
        return message

    async def send(self, message: Message) -> None:
        if not self.refused:
            self._started = True
            await self._send(message)

    async def refuse(self) -> None:
        self.refused = True
        await refuse_and_close(
            self._scope,
            self._upload,
            self._send,
            layer="body_limit",
            status=_TOO_LARGE,
            detail=f"The body may have at most {self._max_bytes} bytes.",
        )
