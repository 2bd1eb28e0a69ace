"""Compression: smaller bodies for clients that accept them, with zstd, br or gzip."""

import re
from collections.abc import Awaitable, Iterable
from functools import lru_cache
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware

Headers = list[tuple[bytes, bytes]]

_IDENTITY: Final = "identity"
# The first is taken where a client likes several alike.
_CODINGS: Final = {"zstd": "zstd", "br": "brotli", "gzip": "gzip"}
_WEIGHT: Final = re.compile(r"q\s*=\s*([01](\.\d*)?)")
_NOT_MODIFIED: Final = 304
# Their Vary is that of the 200 in whose place they stand (RFC 9110, 15.3.7 and 15.4.5).
_INSTEAD_OF_200: Final = frozenset({206, _NOT_MODIFIED})
_ZERO_COPY: Final = "http.response.zerocopysend"
_TAKEN: Final = "compression.taken"

_TEXT: Final = (b"json", b"jsonl", b"json-seq", b"xml", b"javascript", b"yaml")
_ENCODED: Final = frozenset({b"content-encoding", b"content-length"})
_REMOVED: Final = _ENCODED | {b"accept-ranges"}
# Under these names the library compresses each chunk of a stream at once, or none of them.
_FLUSHED: Final = (b"content-type", b"text/event-stream")
_UNTOUCHED: Final = (b"content-type", b"application/octet-stream")


class CompressionMiddleware:
    """
    Compress complete bodies of `minimum_size` bytes or more, and streams of text by the chunk.

    The coding is the one that the client likes best (RFC 9110, 12.5.3). A stream, which is an
    answer without Content-Length, goes out as it comes: its head at once, then each chunk as it
    is made. Partial answers (206) and bodies that are encoded already are left alone; a
    compressed answer has no Accept-Ranges, since a range is one of the body as it was (14.3). A
    strong ETag becomes weak on it, as the bytes are no longer those that it names, and on a 304
    to a client that would get one (8.8.3.3).
    """

    def __init__(self, app: ASGIApp, *, minimum_size: int) -> None:
        self.app = app
        self.minimum_size = minimum_size
        self.encoders = {
            coding: CompressMiddleware(
                _hand_over,
                minimum_size=minimum_size,
                **{option: other == coding for other, option in _CODINGS.items()},
            )
            for coding in (_IDENTITY, *_CODINGS)
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        if _ZERO_COPY in scope.get("extensions", ()):
            # What the server's own hand sends can't be compressed.
            others = {key: value for key, value in scope["extensions"].items() if key != _ZERO_COPY}
            scope["extensions"] = others
        return self.app(scope, receive, _Answer(self, scope, receive, send).send)


class _Answer:
    """Sends an answer as it is, or through the library where it may be worth compressing."""

    def __init__(
        self, layer: CompressionMiddleware, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._layer = layer
        self._scope = scope
        self._receive = receive
        self._send = self._pass_on = send

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start" and self._concerns(message):
            return self._start(message)
        return self._pass_on(message)

    def _concerns(self, start: Message) -> bool:
        """Say whether the body may be compressed, or stands for part of one that would be."""
        length = _first(start.get("headers", ()), b"content-length") or b""
        small = length.isdigit() and int(length) < self._layer.minimum_size
        return not small or start["status"] in _INSTEAD_OF_200

    async def _start(self, message: Message) -> None:
        lines = [value for name, value in self._scope["headers"] if name == b"accept-encoding"]
        coding = _preferred(b",".join(lines))

        async def send_finished(message: Message) -> None:
            if message["type"] == "http.response.start":
                compressed = _is_encoded(message)
                if not compressed:
                    self._pass_on = self._send  # the library is done with it
                message = _finished(message, coding, compressed=compressed)
            await self._send(message)

        taken: list[Send] = []
        encoder = self._layer.encoders[coding]
        await encoder({**self._scope, _TAKEN: taken}, self._receive, send_finished)
        encode = taken.pop()

        def pass_on(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._pass_on = self._send  # else this answer would hold itself
            # The library edits what it is sent: hand it copies.
            return encode(_prepared(message))

        self._pass_on = pass_on
        await pass_on(message)


async def _hand_over(scope: Scope, _: Receive, send: Send) -> None:
    """Stand where the library calls an app, and take what it would have the app send to."""
    scope[_TAKEN].append(send)


@lru_cache(maxsize=128)
def _preferred(accepted: bytes) -> str:
    """Return the coding of the highest weight in `accepted`, the value of Accept-Encoding."""
    weights = {}
    for item in accepted.decode("latin-1").lower().split(","):
        coding, semicolon, parameter = item.partition(";")
        match = _WEIGHT.fullmatch(parameter.strip())
        weights[coding.strip()] = float(match[1]) if match else 0.0 if semicolon else 1.0
    others = weights.get("*", 0.0)
    best = max(_CODINGS, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get(_IDENTITY, 0.0) else _IDENTITY


def _prepared(message: Message) -> Message:
    """Return a copy for the library, which names a stream by a type that it treats as one."""
    if message["type"] != "http.response.start":
        return {**message}
    headers: Headers = list(message.get("headers", ()))
    if _first(headers, b"content-length") is None:
        media_type = (_first(headers, b"content-type") or b"").partition(b";")[0]
        media_type = media_type.strip().lower()
        flushed = media_type.startswith(b"text/") or media_type.endswith(_TEXT)
        headers = [item for item in headers if item[0] != b"content-type"]
        headers.append(_FLUSHED if flushed else _UNTOUCHED)
    return {**message, "headers": headers, "prepared": message}


def _finished(message: Message, coding: str, *, compressed: bool) -> Message:
    """Return the head of the service with what the library did to it."""
    start: Message = message["prepared"]
    headers: Headers = list(start.get("headers", ()))
    if compressed:
        headers = [item for item in headers if item[0] not in _REMOVED]
        headers += [item for item in message["headers"] if item[0] in _ENCODED]
    if compressed or (start["status"] == _NOT_MODIFIED and coding != _IDENTITY):
        headers = [_weak(*item) for item in headers]
    varied = _first(message["headers"], b"vary") != _first(headers, b"vary")
    if varied or start["status"] in _INSTEAD_OF_200:
        headers = _varied(headers)
    return {**start, "headers": headers}


def _is_encoded(message: Message) -> bool:
    """Say whether the library encoded the body to which this head belongs."""
    theirs = _first(message["prepared"].get("headers", ()), b"content-encoding")
    return _first(message["headers"], b"content-encoding") != theirs


def _weak(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    weak = name == b"etag" and not value.startswith(b"W/")
    return (name, b"W/" + value if weak else value)


def _varied(headers: Headers) -> Headers:
    vary = [value for name, value in headers if name == b"vary"]
    names = {item.strip().lower() for value in vary for item in value.split(b",")}
    if names & {b"*", b"accept-encoding"}:
        return headers
    others = [item for item in headers if item[0] != b"vary"]
    return [*others, (b"vary", b", ".join([*vary, b"Accept-Encoding"]))]


def _first(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    for name, value in headers:
        if name == wanted:
            return value
    return None
