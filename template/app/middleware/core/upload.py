"""Upload: the body of a request, of which more may arrive after it was refused."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from starlette.types import Message, Scope, Send

_LINGER_SECONDS: Final = 2.0
_IDLE_SECONDS: Final = 0.5


def announces_body(scope: Scope, headers: Mapping[bytes, object]) -> bool:
    """Return whether a request may have a body."""
    # HTTP/1 announces it by one of these (RFC 9112, 6.3); later versions need none.
    announced = b"content-length" in headers or b"transfer-encoding" in headers
    return scope["type"] == "http" and (announced or scope["http_version"][0] != "1")


def linger(send: Send, skip: Callable[[], Awaitable[None]], arrives: Callable[[], bool]) -> Send:
    """
    Return a `send` for a response to a request whose body still `arrives`: `skip` it.

    A connection that is closed while bytes arrive is reset, and a reset can overtake the
    response (RFC 9112, 9.6): it is sent in full, but ended only when the body has arrived, the
    client fell silent or two seconds are over. For a body that nobody reads, some servers close
    the connection without a word, over HTTP/2 with the requests of others, and clients such as
    httpx send all of it before they read.
    """

    async def send_and_linger(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            await _discard(skip, arrives)
            message = {**message, "body": b""}
        await send(message)

    return send_and_linger


async def _discard(skip: Callable[[], Awaitable[None]], arrives: Callable[[], bool]) -> None:
    """Read what still arrives, for a little while, and keep nothing of it."""
    now = asyncio.get_running_loop().time
    deadline = now() + _LINGER_SECONDS
    # The response must end, whatever happens to the rest.
    with suppress(Exception):
        while arrives() and now() < deadline:
            async with asyncio.timeout(_IDLE_SECONDS):
                await skip()
            await asyncio.sleep(0)
