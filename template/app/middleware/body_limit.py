"""Body limit: returns 413 when a request body is too large."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message

from .core.exchange import Decision, Exchange, Place
from .core.layer import HTTP, Layer
from .core.upload import announces_body
from .problem import Refusal


class BodyLimitMiddleware(Layer):
    """
    Respond with 413 once a body exceeds `max_bytes`, and close the connection.

    A body with a `Content-Length` is rejected before it is read, and before `100 Continue`. Any
    other is counted as it arrives, so inner layers never read more than the limit (RFC 9110,
    15.5.14). Websockets pass through: the server limits their messages (`--ws-max-size`).
    """

    scopes = HTTP

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        super().__init__(app)
        self.max_bytes = max_bytes
        self.refusal = Refusal(
            status=413,
            detail=f"The body can have at most {max_bytes} bytes.",
            closes=True,
        )

    def enter(self, exchange: Exchange) -> Decision:
        if not announces_body(exchange.scope, exchange.headers):
            return None
        # A float, since `int` refuses numbers of thousands of digits.
        length = exchange.header(b"content-length") or ""
        if length.isdecimal() and float(length) > self.max_bytes:
            return self.refusal
        return self._count

    async def _count(self, exchange: Exchange, place: Place) -> None:
        receive = exchange.receive
        size = 0
        refused = False

        async def receive_counted() -> Message:
            nonlocal size, refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                if not (place.started or refused):
                    refused = True
                    await place.refuse(self.name, self.refusal)
                # An HTTPException, because FastAPI takes any other for a broken body: 400.
                raise HTTPException(413)
            return message

        exchange.receive = receive_counted
        try:
            await place.proceed()
        except Exception:
            # The endpoint failed because the rest of the body is missing; the 413 is already sent.
            if not refused:
                raise
