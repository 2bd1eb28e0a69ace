"""Concurrency: limits how many requests one process runs at the same time."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Collection
from math import ceil
from typing import Annotated, Final

from pydantic import Field
from starlette.status import WS_1013_TRY_AGAIN_LATER
from starlette.types import ASGIApp, Message

from .core.exchange import HANDSHAKE, PROBE_METHODS, Decision, Exchange, Place
from .core.layer import Layer
from .problem import Refusal

# Who shortens the other limit alone need not change it.
_DEFAULT: Final = 1


class Slots:
    """
    The `most` slots of one process, and the requests that wait for one, in order of arrival.

    `apart` has the slots of routes with a limit of their own, by the names of their policies.
    """

    def __init__(self, most: int, policy: str = "") -> None:
        self.most = most
        self.policy = policy
        self.taken = 0
        self.waiting: OrderedDict[asyncio.Future[Decision], None] = OrderedDict()
        self.apart: list[Slots] = []

    @property
    def all(self) -> "list[Slots]":
        """These slots, and those that are apart."""
        return [self, *self.apart]

    def free(self) -> None:
        """Hand a slot to who has waited longest, or take it back where nobody waits."""
        while self.waiting:
            turn, _ = self.waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self.taken -= 1

    async def wait(self, seconds: float, late: Refusal, left: Awaitable[None] | None) -> Decision:
        """Wait for a slot; return `late` after so many seconds, or end where the client `left`."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Decision] = loop.create_future()
        timer = loop.call_later(seconds, _settle, turn, late)
        watch = None if left is None else asyncio.ensure_future(left)
        if watch is not None:
            watch.add_done_callback(
                lambda task: None if task.cancelled() else _settle(turn, _nothing)
            )
        self.waiting[turn] = None
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.result() is None:
                self.free()  # it was handed over just before
            raise
        finally:
            timer.cancel()
            if watch is not None:
                watch.cancel()
            self.waiting.pop(turn, None)


def _settle(turn: asyncio.Future[Decision], decision: Decision) -> None:
    if not turn.done():
        turn.set_result(decision)


async def _nothing(_: Exchange, __: Place) -> None:
    """Send nothing, since nobody is there to get it."""


async def _left(exchange: Exchange) -> None:
    """Wait until the client has left; keep what arrives meanwhile for the layers inside."""
    arrived: deque[Message] = deque()
    receive = exchange.receive

    async def receive_again() -> Message:
        return arrived.popleft() if arrived else await receive()

    exchange.receive = receive_again
    while not arrived or arrived[-1]["type"] != "http.disconnect":
        arrived.append(await receive())
        if arrived[-1].get("more_body", False):
            # To see its client leave, all the rest would have to be kept.
            await asyncio.Event().wait()


class ConcurrencyMiddleware(Layer):
    """
    Work on as many requests as there are `slots`; respond with 503 where none becomes free.

    As many again wait for a slot, each at most `queue_timeout` seconds; one more is refused at
    once. A GET or HEAD whose client leaves waits no longer. A request keeps its slot as long as
    the service works on it: a stream until its end, a background task too, and a thread even if
    the request was cut off. A websocket keeps one during its handshake. Requests for `probe_paths`
    neither take a slot nor wait for one.

    With `max_concurrency`, which a policy gives it, the routes of that policy have as many slots
    of their own: however long they take, they take none of the others, and none is taken of them.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        slots: Slots,
        queue_timeout: float,
        probe_paths: Collection[str],
        max_concurrency: int | None = None,
        policy: str = "",
    ) -> None:
        super().__init__(app, exempt_paths=probe_paths)
        self.slots = slots
        if max_concurrency is not None:
            self.slots = Slots(max_concurrency, policy)
            slots.apart.append(self.slots)
        self.queue_timeout = queue_timeout
        self.refusal = Refusal(
            status=503,
            detail="The service is busy. Please try again later.",
            headers={"Retry-After": str(max(1, ceil(queue_timeout)))},
            close_code=WS_1013_TRY_AGAIN_LATER,
        )

    def enter(self, exchange: Exchange) -> Decision | Awaitable[Decision]:
        slots = self.slots
        if slots.taken < slots.most:  # so nobody waits
            slots.taken += 1
            return None
        if self.queue_timeout and len(slots.waiting) < slots.most:
            return self._queue(exchange)
        return self.refusal

    async def _queue(self, exchange: Exchange) -> Decision:
        # Others have a body, which would have to be kept while they wait.
        left = _left(exchange) if exchange.method in PROBE_METHODS else None
        return await self.slots.wait(self.queue_timeout, self.refusal, left)

    async def around(self, exchange: Exchange, place: Place) -> None:
        """Free the slot that `enter` took."""
        freed = False

        def free_when_accepted(_: Exchange, message: Message) -> None:
            nonlocal freed
            if message["type"] == "websocket.accept":
                freed = True
                self.slots.free()

        if exchange.method == HANDSHAKE:
            exchange.at_head(free_when_accepted)
        try:
            await place.proceed()
        finally:
            if not freed:
                self.slots.free()


def check_queue(*, seconds: float, limit: float, name: str) -> None:
    """
    Reject a time in the queue that no request reaches, since the `limit` of this `name` ends it.

    Raises:
        ValueError: with a message that says what to set.

    """
    if seconds >= limit and seconds != _DEFAULT:
        msg = (
            f"QUEUE_TIMEOUT must be below {name}, which ends requests in the queue before they get"
            f" 503 with Retry-After, not {seconds:g} with {limit:g}"
        )
        raise ValueError(msg)


QueueTimeout = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
