"""Timeout: responds with 504 when no response has started in time."""

import asyncio
from time import monotonic
from typing import Annotated, Any

from pydantic import Field
from starlette.types import ASGIApp

from .core.exchange import Exchange, Place
from .core.layer import HTTP, Layer
from .problem import Refusal


class TimeoutMiddleware(Layer):
    """
    Respond with 504 if no response has started after `seconds`, and cancel what runs inside.

    The 504 is sent on time and closes an HTTP/1 connection, which ends a slow upload. A stream
    that has started continues, and so do background tasks. Cancelled code may clean up as slowly
    as it needs to. The thread of a `def` endpoint or dependency can't be stopped: it keeps its
    place in the pool and its dependencies until it ends, and may have effects after the
    response. Websockets pass through.
    """

    scopes = HTTP

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        super().__init__(app)
        self.seconds = seconds
        self.refusal = Refusal(
            status=504,
            detail=f"No response started within {seconds:g} seconds.",
            closes=True,
        )

    async def around(self, exchange: Exchange, place: Place) -> None:
        expiry = _Expiry(self, exchange, place)
        try:
            with expiry:
                await place.proceed()
        finally:
            if expiry.response is not None:
                await expiry.response


class _Expiry:
    """The expiry of one request: sends the 504 and cancels inner code."""

    def __init__(self, layer: TimeoutMiddleware, exchange: Exchange, place: Place) -> None:
        self.response: asyncio.Task[None] | None = None
        self._layer = layer
        self._exchange = exchange
        self._place = place
        self._over = False
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._since = monotonic()
        # Many requests never wait, and only one that waits can be ended.
        self._exchange.when_waiting(self._start)

    def __exit__(self, cls: type[BaseException] | None, *_: object) -> bool:
        """Stop the cancellation here if this expiry caused it."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is None or self.response is None:
            return False
        return self._task.uncancel() <= self._cancelling and cls is asyncio.CancelledError

    def _start(self) -> None:
        self._task = task = asyncio.current_task()
        if self._over or task is None:
            return
        self._cancelling = task.cancelling()
        seconds = self._layer.seconds - (monotonic() - self._since)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end, task)

    def _end(self, task: asyncio.Task[Any]) -> None:
        if self._place.started:
            return
        # A separate task, since the endpoint's task may ignore its cancellation.
        refusing = self._place.refuse(self._layer.name, self._layer.refusal)
        self.response = asyncio.create_task(refusing)
        task.cancel("no response started in time")


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
