"""Conditional: adds ETags, and returns 304 when the client has the body."""

import asyncio
import re
from hashlib import blake2b
from typing import Final

from starlette.status import HTTP_200_OK
from starlette.types import Message, Send

from .core.exchange import Exchange, Filter
from .core.layer import HTTP, Layer

_MOMENT_SECONDS: Final = 0.05
_TAG: Final = re.compile(rb'(?:W/)?("[^"]*")')
_RANGE: Final = frozenset({b"range"})
_KEPT: Final = frozenset(
    {
        b"content-location",
        b"content-security-policy",
        b"content-security-policy-report-only",
    }
)


class ConditionalMiddleware(Layer):
    """
    Add an ETag to complete responses, and respond with 304 if the client sends it back.

    A response is complete if it is a 200 to GET or HEAD whose body comes in one piece with the
    declared length. An endpoint's own ETag is used for any body. Other streams pass unchanged.
    Tags are compared weakly (RFC 9110, 13.1.2), so the tag of a compressed response matches too. A
    request for a range that has If-None-Match gets 304 or the whole body, since If-None-Match comes
    first (13.2.2), and a 416 has no tag to compare. The 304 has the headers of the 200, except
    those that describe the body (15.4.5). The endpoint still runs; only the transfer is saved.
    """

    scopes = HTTP

    def enter(self, exchange: Exchange) -> None:
        headers = exchange.headers
        if b"range" in headers and b"if-none-match" in headers:
            exchange.drop_headers(_RANGE)

    def head(self, exchange: Exchange, message: Message) -> Filter | None:
        if exchange.method not in {"GET", "HEAD"} or message["status"] != HTTP_200_OK:
            return None
        named = dict(message["headers"])
        if (tag := named.get(b"etag")) is not None:
            return _without_body if _names(exchange, tag) else None
        length = named.get(b"content-length")
        return None if length is None else lambda send: _Held(exchange, send, length).send


def _without_body(send: Send) -> Send:
    """Send 304 instead of the response, whatever its length."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(_not_modified(message))
            await send({"type": "http.response.body", "body": b""})

    return send_head


class _Held:
    """Delays the head of a response until its body is known, for a moment at most."""

    def __init__(self, exchange: Exchange, send: Send, length: bytes) -> None:
        self._exchange = exchange
        self._send = send
        self._length = length
        self._start: Message | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.Task[None] | None = None
        exchange.at_exit(self.forget)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            # A body in one piece follows at once, nearly always.
            self._exchange.when_waiting(self._wait)
            return
        start = self.forget()
        if start is not None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                start, message = self._judged(start, message)
            await self._send(start)
        elif self._late is not None:
            await self._late
        await self._send(message)

    def forget(self) -> Message | None:
        """Return the head if it is still delayed, and stop delaying it."""
        if self._timer is not None:
            self._timer.cancel()
        start, self._start = self._start, None
        return start

    def _wait(self) -> None:
        if self._start is not None:
            self._timer = asyncio.get_running_loop().call_later(_MOMENT_SECONDS, self._expire)

    def _expire(self) -> None:
        start = self.forget()
        if start is not None:
            self._late = asyncio.ensure_future(self._send(start))

    def _judged(self, start: Message, message: Message) -> tuple[Message, Message]:
        """Return the head and body to send: with an ETag, or 304."""
        body = message.get("body", b"")
        if self._length != b"%d" % len(body):
            # A response to HEAD may have no body to compute a tag from.
            return start, message
        tag = b'"' + blake2b(body, digest_size=16).hexdigest().encode() + b'"'
        start["headers"].append((b"etag", tag))
        if not _names(self._exchange, tag):
            return start, message
        return _not_modified(start), {**message, "body": b""}


def _not_modified(start: Message) -> Message:
    kept = [item for item in start["headers"] if item[0] in _KEPT or item[0][:8] != b"content-"]
    return {**start, "status": 304, "headers": kept, "trailers": False}


def _names(exchange: Exchange, tag: bytes) -> bool:
    """Return whether If-None-Match contains `tag` or an asterisk."""
    if b"if-none-match" not in exchange.headers:
        return False
    opaque = tag.removeprefix(b"W/")
    lines = exchange.lines(b"if-none-match")
    return any(line.strip() == b"*" or opaque in _TAG.findall(line) for line in lines)
