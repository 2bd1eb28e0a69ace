"""Timeout: answers 504 when no response has started in time."""

import asyncio
from typing import Annotated, Self

from pydantic import Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .core.connection_close import Upload, refuse_and_close

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TimeoutMiddleware:
    """
    Answer 504 if no response has started after `seconds`, and cancel what runs inside.

    The connection is closed, so an upload that trickles in ends there. A stream that has
    started is not cut, and background tasks live on. The 504 doesn't wait for the endpoint: one
    that ignores its cancellation goes on unheard, and so does the thread of a `def` endpoint,
    which can't be stopped; its effects may come after the answer.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        async with _Watch(scope, receive, send, seconds=self.seconds) as watch:
            await self.app(scope, watch.upload.receive, watch.send)


class _Watch:
    """Sends one answer: that of the service or, when the time is over, the 504."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, seconds: float) -> None:
        self.upload = Upload(scope, receive)
        self._scope = scope
        self._send = send
        self._seconds = seconds
        self._answer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return self

    async def __aexit__(self, cls: type[BaseException] | None, *_: object) -> bool:
        """End the cancellation here if it was the timer's, as `asyncio.timeout` does."""
        self._timer.cancel()
        if self._answer is None or self._task is None:
            return False
        ours = self._task.uncancel() <= self._cancelling
        await self._answer
        return ours and cls is asyncio.CancelledError

    async def send(self, message: Message) -> None:
        if self._answer is None:
            self._timer.cancel()
            await self._send(message)

    def _expire(self) -> None:
        # A task of its own: the one that runs the endpoint may ignore that it is cancelled.
        self._answer = asyncio.create_task(self._refuse())
        if self._task is not None:
            self._task.cancel()

    async def _refuse(self) -> None:
        await refuse_and_close(
            self._scope,
            self.upload,
            self._send,
            layer="timeout",
            status=504,
            detail=f"No response had started after {self._seconds:g} seconds.",
        )
