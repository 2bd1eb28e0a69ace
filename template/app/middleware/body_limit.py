"""Body limit: answers 413 to a request whose body is too large."""

from collections.abc import Awaitable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message

from .core.exchange import Exchange
from .core.layer import HTTP, Layer
from .core.upload import announces_body
from .problem import Refusal

_TOO_LARGE: Final = 413


class BodyLimitMiddleware(Layer):
    """
    Respond with 413 once a body passes `max_bytes`, and close the connection (RFC 9110, 15.5.14).

    A body that declares its length is refused before it is read, or invited by `100 Continue`;
    any other is counted as it arrives, so nothing inside sees more than the limit. Websockets
    pass through: the server limits their messages (`--ws-max-size`).
    """

    scopes = HTTP

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        super().__init__(app)
        self.max_bytes = max_bytes
        self.refusal = Refusal(
            status=_TOO_LARGE,
            detail=f"The body can have at most {max_bytes} bytes.",
            closes=True,
        )

    def enter(self, exchange: Exchange) -> Refusal | Awaitable[None] | None:
        if not announces_body(exchange.scope, exchange.headers):
            return None
        # A float, since `int` refuses numbers of thousands of digits.
        length = exchange.header(b"content-length") or ""
        if length.isdecimal() and float(length) > self.max_bytes:
            return self.refusal
        return self._count(exchange)

    async def _count(self, exchange: Exchange) -> None:
        place = exchange.here()
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
                raise HTTPException(_TOO_LARGE)
            return message

        exchange.receive = receive_counted
        try:
            await exchange.proceed()
        except Exception:
            # What fails inside for want of the rest of the body has been answered.
            if not refused:
                raise
