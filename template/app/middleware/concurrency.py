"""Concurrency: a bound on the requests that one process works on at the same time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from math import ceil
from typing import Annotated, Final

from pydantic import Field
from starlette.types import ASGIApp, Message

from .core.exchange import Exchange, Place
from .core.layer import Layer
from .problem import Refusal

QueueTimeout = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Callable[[str, int], None]

_TRY_AGAIN_LATER: Final = 1013


class ConcurrencyMiddleware(Layer):
    """
    Work on `most` requests at the same time, and respond with 503 to what had to wait too long.

    As many again wait for a slot, in order of arrival, each at most `queue_timeout` seconds; one
    more is refused at once. A request keeps its slot as long as the service works on it: a stream
    until its end, a background task too, and a thread even after a 504. A websocket keeps one
    during its handshake. `probe_paths` neither take a slot nor wait for one.
    """

    def __init__(
        self, app: ASGIApp, *, most: int, queue_timeout: float, probe_paths: Collection[str]
    ) -> None:
        super().__init__(app, exempt_paths=probe_paths)
        self.most = most
        self.queue_timeout = queue_timeout
        self.working = 0
        self.waiting: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self.refusal = Refusal(
            status=503,
            detail="The service is busy. Please try again later.",
            headers={"Retry-After": str(max(1, ceil(queue_timeout)))},
            close_code=_TRY_AGAIN_LATER,
        )

    def enter(self, exchange: Exchange) -> Refusal | Awaitable[None]:
        slot = _Slot(self, exchange)
        if self.working < self.most:  # so nobody waits
            self.working += 1
            slot.count("working", 1)
            return slot.work()
        if not self.queue_timeout or len(self.waiting) >= self.most:
            return self.refusal
        return slot.wait(exchange.here())


class _Slot:
    """The slot of one request, which it has or waits for."""

    __slots__ = ("_exchange", "_layer", "_taken", "count")

    def __init__(self, layer: ConcurrencyMiddleware, exchange: Exchange) -> None:
        self._layer = layer
        self._exchange = exchange
        self._taken = True
        self.count: Count = exchange.state.get("count_work", _count_nothing)

    async def work(self) -> None:
        """Let the request pass, and give the slot back when the work has ended."""
        if self._exchange.method == "WEBSOCKET":
            self._exchange.at_head(self._free_at_head)
        try:
            await self._exchange.proceed()
        finally:
            self._free()

    async def wait(self, place: Place) -> None:
        """Wait for a slot, then work; refuse the request where none became free in time."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(self._layer.queue_timeout, _settle, turn)
        self._layer.waiting[turn] = None
        self.count("waiting", 1)
        try:
            granted = await turn
        except asyncio.CancelledError:
            # The slot may have been handed over just before.
            if turn.done() and not turn.cancelled() and turn.result():
                self._free()
            raise
        finally:
            timer.cancel()
            self._layer.waiting.pop(turn, None)
            self.count("waiting", -1)
        if granted:
            await self.work()
        else:
            await place.refuse(self._layer.name, self._layer.refusal)

    def _free_at_head(self, _: Exchange, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self._free()

    def _free(self) -> None:
        """Hand the slot to who has waited longest, once."""
        if not self._taken:
            return
        self._taken = False
        waiting = self._layer.waiting
        while waiting:
            turn, _ = waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(True)
                return
        self._layer.working -= 1
        self.count("working", -1)


def _settle(turn: asyncio.Future[bool]) -> None:
    """Tell who waits that no slot became free in time."""
    if not turn.done():
        turn.set_result(False)


def _count_nothing(_: str, __: int) -> None:
    """Stand in for the metrics where there are none."""
