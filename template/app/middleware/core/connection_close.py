"""Refusals that close the connection, while a client may still be sending its body."""

import asyncio
from contextlib import suppress
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from app.middleware.problem import refuse

_LINGER_SECONDS: Final = 2.0
_IDLE_SECONDS: Final = 0.5


class Upload:
    """The body of a request as it arrives."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._arrives: bool | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        self._arrives = message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Read what still arrives, for a little while, and keep nothing of it."""
        if self._arrives is None:
            # With Expect a client sends nothing until it is asked to, which reading does.
            self._arrives = b"expect" not in dict(self._scope["headers"])
        now = asyncio.get_running_loop().time
        deadline = now() + _LINGER_SECONDS
        # Whatever becomes of the rest, the caller has an answer to end.
        with suppress(Exception):
            while self._arrives and now() < deadline:
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self.receive()
                await asyncio.sleep(0)


async def refuse_and_close(
    scope: Scope, upload: Upload, send: Send, *, layer: str, status: int, detail: str
) -> None:
    """
    Refuse over HTTP with `Connection: close`, so that the server doesn't read the whole body.

    A connection that is closed while bytes arrive is reset, and a reset can overtake the answer
    (RFC 9112, 9.6): the answer is sent in full, but ended only when the client fell silent or
    two seconds are over.
    """

    async def send_and_linger(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            await upload.discard()
            message = {**message, "body": b""}
        await send(message)

    await refuse(
        scope,
        upload.receive,
        send_and_linger,
        layer=layer,
        status=status,
        detail=detail,
        headers={"Connection": "close"},
    )
