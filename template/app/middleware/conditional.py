"""Conditional: spares a client the body that it already has."""

import asyncio
import re
from hashlib import blake2b
from typing import Final

from starlette.types import Message, Send

from .core.exchange import Exchange, Filter
from .core.headers import Headers
from .core.layer import HTTP, Layer

_OK: Final = 200
_MOMENT_SECONDS: Final = 0.05
_TAG: Final = re.compile(rb'(?:W/)?("[^"]*")')
_KEPT: Final = frozenset(
    {
        b"content-location",
        b"content-security-policy",
        b"content-security-policy-report-only",
    }
)


class ConditionalMiddleware(Layer):
    """
    Add an ETag to complete responses, and respond with 304 to a client that names it.

    Complete is a 200 to GET or HEAD whose one body has the length that its head declares. An
    endpoint's own ETag is respected, whatever its body. Other streams pass as they come. Tags are
    compared weakly (RFC 9110, 13.1.2), so one that was learnt from a compressed response matches
    too. The 304 keeps the headers of the 200 but for those that describe the body (15.4.5). The
    endpoint still does its work; what is saved is the way to the client.
    """

    scopes = HTTP

    def head(self, exchange: Exchange, message: Message) -> Filter | None:
        if exchange.method not in {"GET", "HEAD"} or message["status"] != _OK:
            return None
        named = dict(message["headers"])
        if (tag := named.get(b"etag")) is not None:
            return _without_body if _names(exchange, tag) else None
        return (lambda send: _Held(exchange, send).send) if b"content-length" in named else None


def _without_body(send: Send) -> Send:
    """Send 304 in place of the response that comes, whatever its length."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(_not_modified(message, message["headers"]))
            await send({"type": "http.response.body", "body": b""})

    return send_head


class _Held:
    """Holds the head of a response back until its body is known, but no longer than a moment."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange = exchange
        self._send = send
        self._start: Message | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.Task[None] | None = None
        exchange.at_exit(self.forget)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            # A body in one piece follows at once; whatever takes longer is a stream.
            self._timer = asyncio.get_running_loop().call_later(_MOMENT_SECONDS, self._expire)
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
        """Return the head if it is still held back, and hold it no longer."""
        if self._timer is not None:
            self._timer.cancel()
        start, self._start = self._start, None
        return start

    def _expire(self) -> None:
        start = self.forget()
        if start is not None:
            self._late = asyncio.ensure_future(self._send(start))

    def _judged(self, start: Message, message: Message) -> tuple[Message, Message]:
        """Return the head and body of the answer: with an ETag, or 304."""
        headers = start["headers"]
        named = dict(headers)
        body = message.get("body", b"")
        if named[b"content-length"] != b"%d" % len(body):
            # The body of HEAD may be left out, and nothing is known of it.
            return start, message
        tag = b'"%b"' % blake2b(body, digest_size=16).hexdigest().encode()
        headers = [*headers, (b"etag", tag)]
        if not _names(self._exchange, tag):
            return {**start, "headers": headers}, message
        return _not_modified(start, headers), {**message, "body": b""}


def _not_modified(start: Message, headers: Headers) -> Message:
    kept = [item for item in headers if item[0] in _KEPT or item[0][:8] != b"content-"]
    return {**start, "status": 304, "headers": kept}


def _names(exchange: Exchange, tag: bytes) -> bool:
    """Say whether If-None-Match names `tag`, or any by an asterisk."""
    opaque = tag.removeprefix(b"W/")
    lines = exchange.lines(b"if-none-match")
    return any(line.strip() == b"*" or opaque in _TAG.findall(line) for line in lines)
