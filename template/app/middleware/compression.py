"""Compression: compresses responses with zstd, br or gzip."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware

from .core.exchange import Addition, Exchange, Filter
from .core.headers import Clash, HeaderRule, Headers, first
from .core.layer import HTTP, Layer
from .core.memo import Memo
from .core.threads import Threads, nothing, run_at_once

_REMEMBERED: Final = 128
_LARGE: Final = 128 * 1024
_IDENTITY: Final = "identity"
# Preferred first, where a client gives several the same weight.
_CODINGS: Final = {"zstd": "zstd", "br": "brotli", "gzip": "gzip"}
# An open stream keeps its compressor: 0.1 MB of gzip, 0.5 of br, 2 of zstd.
_OF_STREAMS: Final = ("gzip", "br", "zstd")
_WEIGHT: Final = re.compile(r"q\s*=\s*([01](\.\d*)?)")
_NOT_MODIFIED: Final = 304
# They need the Vary of the 200 that they replace (RFC 9110, 15.3.7 and 15.4.5).
_INSTEAD_OF_200: Final = frozenset({206, _NOT_MODIFIED})
_SENDS: Final = "compression.sends"
_threads: Final = Threads(4)
_RULE: Final = HeaderRule({b"vary": Clash.APPEND})
_VARY: Final = [(b"vary", b"Accept-Encoding")]

_DENSE: Final = (b"audio/", b"image/gif", b"image/jpeg", b"image/png", b"image/webp", b"video/")
_TEXT: Final = (b"json", b"jsonl", b"json-seq", b"xml", b"javascript", b"yaml")
_ENCODED: Final = frozenset({b"content-encoding", b"content-length"})
# And the headers that describe the uncompressed body (RFC 9530; RFC 9110, 14.3).
_REMOVED: Final = _ENCODED | {
    b"accept-ranges",
    b"content-digest",
    b"content-md5",
    b"digest",
    b"repr-digest",
}
# Under these names the library compresses each chunk of a stream at once, or none of them.
_EVENTS: Final = b"text/event-stream"
_FLUSHED: Final = (b"content-type", _EVENTS)
_UNTOUCHED: Final = (b"content-type", b"application/octet-stream")


class CompressionMiddleware(Layer):
    """
    Compress complete bodies of `minimum_size` bytes or more, and text streams chunk by chunk.

    Uses the coding that the client prefers (RFC 9110, 12.5.3), and gzip for a stream if it has no
    preference. A stream, that is a response without Content-Length, isn't delayed: its head is sent
    at once, then each chunk. Partial responses (206), encoded bodies, and those with
    `Cache-Control: no-transform` (RFC 9111, 5.2.2.6) aren't changed. A compressed response loses
    Accept-Ranges (14.3) and digests, which describe the uncompressed body. A strong ETag becomes
    weak, on a 304 to such a client too (8.8.3.3). HEAD has the headers of GET, without
    Content-Length where its response comes without a body (9.3.2). Large bodies are compressed in a
    thread. A client with HTTP/1.0 gets streams and large files uncompressed.
    """

    scopes = HTTP
    reads_bodies = True

    def __init__(self, app: ASGIApp, *, minimum_size: int) -> None:
        super().__init__(app)
        self.minimum_size = minimum_size
        self.encoders = {
            coding: CompressMiddleware(
                _hand_over,
                minimum_size=minimum_size,
                **{option: other == coding for other, option in _CODINGS.items()},
            )
            for coding in _CODINGS
        }
        self.preferred = Memo(partial(_preferred, tuple(_CODINGS)), most=_REMEMBERED)
        self.preferred_for_streams = Memo(partial(_preferred, _OF_STREAMS), most=_REMEMBERED)

    def head(self, exchange: Exchange, message: Message) -> Addition | Filter | None:
        headers: Headers = message["headers"]
        replaces_200 = message["status"] in _INSTEAD_OF_200
        if not (replaces_200 or self._gains(headers)) or _must_stay(headers):
            return None
        preferred = self.preferred
        if _is_stream(headers):
            if exchange.scope["http_version"] == "1.0":
                return _RULE, _VARY
            preferred = self.preferred_for_streams
        coding = preferred[b",".join(exchange.lines(b"accept-encoding"))]
        if coding != _IDENTITY and not replaces_200:
            library = self.encoders[coding]
            return lambda send: _Encoder(exchange.scope, message, library, send).send
        if coding != _IDENTITY and message["status"] == _NOT_MODIFIED:
            message["headers"] = [_weak(*item) for item in headers]
        return _RULE, _VARY

    def _gains(self, headers: Headers) -> bool:
        """Return whether a body with these headers can be compressed."""
        length = first(headers, b"content-length") or b""
        if length.isdigit() and int(length) < self.minimum_size:
            return False
        kind = first(headers, b"content-type")
        loose = kind is not None and not kind.startswith(_DENSE)
        return loose and first(headers, b"content-encoding") is None


def _is_stream(headers: Headers) -> bool:
    """Return whether the head is sent at once, which decides before the body is known."""
    kind = first(headers, b"content-type") or b""
    return first(headers, b"content-length") is None or kind.lower().startswith(_EVENTS)


def _must_stay(headers: Headers) -> bool:
    """Return whether the endpoint asks that nobody changes the body."""
    return any(
        name == b"cache-control" and b"no-transform" in value.lower() for name, value in headers
    )


class _Encoder:
    """Sends one response through the library, which decides whether to compress it."""

    def __init__(
        self, scope: Scope, head: Message, library: CompressMiddleware, send: Send
    ) -> None:
        self._scope = scope
        self._head = head
        self._library = library
        self._send = send
        self._encode: Send | None = None
        self._encoded: list[Message] = []
        self._left_alone = False

    async def send(self, message: Message) -> None:
        if self._scope["http_version"] == "1.0":
            await self._leave_parts_alone(message)
        if self._left_alone:
            await self._send(message)
            return
        if self._encode is None:
            sends: list[Send] = []
            await self._library({**self._scope, _SENDS: sends}, nothing, self._collect)
            self._encode = sends.pop()
        ends = message["type"] == "http.response.body" and not message.get("more_body", False)
        bodiless = ends and self._scope["method"] == "HEAD" and not message.get("body", b"")
        prepared = _prepared(message)
        if bodiless:
            prepared["more_body"] = True  # so the library treats the head like that of GET
        encoding = self._encode(prepared)
        if len(message.get("body", b"")) > _LARGE:
            await _threads.run(run_at_once, encoding)
        else:
            await encoding
        encoded = self._encoded.copy()
        self._encoded.clear()
        for item in encoded:
            await self._send(item)
        if bodiless:
            await self._send(message)
        if ends:
            self._left_alone = True  # trailers may follow
        if self._left_alone:
            self._encode = None  # else this response would hold itself

    async def _leave_parts_alone(self, message: Message) -> None:
        """Keep Content-Length for HTTP/1.0, which doesn't know chunks (RFC 9112, 6.1)."""
        if self._encode is not None and message.get("more_body", False):
            self._left_alone, self._encode = True, None
            _RULE.merge(self._head["headers"], _VARY)
            await self._send(self._head)

    async def _collect(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._left_alone = not _is_encoded(message)
            message = _finished(message, compressed=not self._left_alone)
        self._encoded.append(message)


async def _hand_over(scope: Scope, _: Receive, send: Send) -> None:
    """Act as the app that the library calls, and keep the `send` that it passes."""
    scope[_SENDS].append(send)


def _preferred(codings: Sequence[str], accepted: bytes) -> str:
    """Return that of `codings` with the highest weight in `accepted`, Accept-Encoding's value."""
    weights = {}
    for item in accepted.decode("latin-1").lower().split(","):
        coding, semicolon, parameter = item.partition(";")
        match = _WEIGHT.fullmatch(parameter.strip())
        weights[coding.strip()] = float(match[1]) if match else 0.0 if semicolon else 1.0
    others = weights.get("*", 0.0)
    best = max(codings, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get(_IDENTITY, 0.0) else _IDENTITY


def _prepared(message: Message) -> Message:
    """
    Return a copy for the library, since it changes the messages that it gets.

    The copy names a stream by a type that the library treats as one.
    """
    if message["type"] != "http.response.start":
        return {**message}
    headers: Headers = list(message.get("headers", ()))
    if first(headers, b"content-length") is None:
        media_type = (first(headers, b"content-type") or b"").partition(b";")[0]
        media_type = media_type.strip().lower()
        flushed = media_type.startswith(b"text/") or media_type.endswith(_TEXT)
        headers = [item for item in headers if item[0] != b"content-type"]
        headers.append(_FLUSHED if flushed else _UNTOUCHED)
    return {**message, "headers": headers, "prepared": message}


def _finished(message: Message, *, compressed: bool) -> Message:
    """Return the service's head with the changes that the library made."""
    start: Message = message["prepared"]
    headers: Headers = list(start["headers"])
    if compressed:
        headers = [_weak(*item) for item in headers if item[0] not in _REMOVED]
        headers += [item for item in message["headers"] if item[0] in _ENCODED]
    if first(message["headers"], b"vary") != first(start["headers"], b"vary"):
        _RULE.merge(headers, _VARY)
    return {**start, "headers": headers}


def _is_encoded(message: Message) -> bool:
    """Return whether the library compressed the body of this head."""
    theirs = first(message["prepared"].get("headers", ()), b"content-encoding")
    return first(message["headers"], b"content-encoding") != theirs


def _weak(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    weak = name == b"etag" and not value.startswith(b"W/")
    return (name, b"W/" + value if weak else value)
