"""Body limit: returns 413 when a request body is too large."""

from functools import partial
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message

from .core.exchange import Decision, Exchange, Place
from .core.layer import HTTP, Layer
from .core.upload import announces_body
from .problem import Refusal

# Where Starlette keeps the limit that is in force: any further one changes it, and sends nothing.
_IN_FORCE: Final = "starlette._body_limit_responder"


class BodyLimitMiddleware(Layer):
    """
    Respond with 413 once a body exceeds `max_bytes`, and close the connection.

    A body with a `Content-Length` is rejected before it is read, and before `100 Continue`. Any
    other is counted as it arrives, so inner layers never read more than the limit (RFC 9110,
    15.5.14). Websockets pass through: the server limits their messages (`--ws-max-size`).

    A lower `max_body_size` of what is inside a mount counts too, unless the limit is a `policy`.
    """

    scopes = HTTP

    def __init__(self, app: ASGIApp, *, max_bytes: int, policy: str = "") -> None:
        super().__init__(app)
        self.max_bytes = max_bytes
        self.is_final = bool(policy)

    def enter(self, exchange: Exchange) -> Decision:
        if not announces_body(exchange.scope, exchange.headers):
            return None
        # A float, since `int` refuses numbers of thousands of digits.
        length = exchange.headers.get(b"content-length") or b""
        declared = float(length) if length.isdigit() else 0
        if declared > self.max_bytes:
            return _refusal(self.max_bytes)
        return partial(self._count, declared)

    async def _count(self, declared: float, exchange: Exchange, place: Place) -> None:
        receive = exchange.receive
        count = _Count(self.max_bytes, is_final=self.is_final)
        exchange.scope[_IN_FORCE] = count
        refused = False

        async def receive_counted() -> Message:
            nonlocal refused
            if declared <= count.most:
                message = await receive()
                count.total_size += len(message.get("body", b""))
                if count.total_size <= count.most:
                    return message
            if not (place.started or refused):
                refused = True
                await place.refuse(self.name, _refusal(count.most))
            # An HTTPException, because FastAPI takes any other for a broken body: 400.
            raise HTTPException(413)

        exchange.receive = receive_counted
        try:
            await place.proceed()
        except Exception:
            # The endpoint failed because the rest of the body is missing; the 413 is already sent.
            if not refused:
                raise


class _Count:
    """The bytes of a body so far, and how many it can have, as Starlette's own limit has them."""

    __slots__ = ("_highest", "_is_final", "most", "total_size")

    def __init__(self, most: int, *, is_final: bool) -> None:
        self.total_size = 0
        self.most = self._highest = most
        self._is_final = is_final

    @property
    def max_body_size(self) -> int:
        return self.most

    @max_body_size.setter
    def max_body_size(self, most: int) -> None:
        if not self._is_final:
            self.most = min(self._highest, most)


def _refusal(most: int) -> Refusal:
    detail = f"The body can have at most {most} bytes."
    return Refusal(status=413, detail=detail, closes=True)
