"""CORS: pages on the origins that are listed may call the service and read its answers."""

import re
from collections.abc import Awaitable
from functools import cached_property
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message, Receive, Scope, Send

from .scope import NAME
from .setting_types import split_commas

RawHeaders = list[tuple[bytes, bytes]]

_ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)


class CorsMiddleware(CORSMiddleware):
    """
    Answer preflights, and let a page on an allowed origin read every other answer (Fetch, 3.3).

    Starlette's class decides and answers preflights. This one only writes the headers of other
    answers from bytes that it prepared: Starlette encodes and looks each one up every time,
    which costs four times as much. Websockets pass: browsers don't apply CORS to them.
    """

    @cached_property
    def _written(self) -> dict[bytes, bytes]:
        return {
            name.lower().encode("latin-1"): value.encode("latin-1")
            for name, value in self.simple_headers.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "OPTIONS":
            await super().__call__(scope, receive, send)
            return
        origin = None
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value.decode("latin-1")
                break
        await self.app(scope, receive, self._sharing(send, origin))

    async def simple_response(
        self, scope: Scope, receive: Receive, send: Send, request_headers: Headers
    ) -> None:
        """Answer an OPTIONS that is no preflight."""
        await self.app(scope, receive, self._sharing(send, request_headers.get("origin")))

    def _sharing(self, send: Send, origin: str | None) -> Send:
        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = self._completed(message.get("headers", []), origin)
                message = {**message, "headers": headers}
            return send(message)

        return send_with_headers

    def _completed(self, headers: RawHeaders, origin: str | None) -> RawHeaders:
        ours = {b"vary": b"Origin"}
        if origin is not None:
            ours |= self._written
            mirrored = self.allow_credentials or not self.allow_all_origins
            if mirrored and self.is_allowed_origin(origin):
                ours[b"access-control-allow-origin"] = origin.encode("latin-1")
        if ours.keys().isdisjoint(map(NAME, headers)):
            return [*headers, *ours.items()]
        vary = [*(value for name, value in headers if name == b"vary"), b"Origin"]
        ours[b"vary"] = b", ".join(vary)
        return [*(item for item in headers if item[0] not in ours), *ours.items()]


def _origin(value: str) -> str:
    """Refuse what no browser ever sends as Origin, so that it could never match."""
    if value == "*" or _ORIGIN.fullmatch(value):
        return value
    if value == "null":
        hint = "sandboxed pages and local files of anybody send it; serve the page from an origin"
    elif "*" in value:
        hint = "a wildcard never matches; use CORS_ALLOW_ORIGIN_REGEX"
    elif match := _ORIGIN.match(value):
        hint = f"an origin ends after host and port; write {match[0]!r}"
    else:
        hint = "write it like 'https://app.example'"
    msg = f"must not hold {value!r}: {hint}"
    raise ValueError(msg)


def _regex(value: str) -> str:
    """Refuse what is no regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        msg = f"must be a regular expression, not {value!r}: {error}"
        raise ValueError(msg) from None
    return value


def check_credentials(*, origins: tuple[str, ...], regex: str, credentials: bool) -> None:
    """
    Refuse to share credentials with every origin.

    Starlette builds such a layer silently and mirrors any Origin. It matches the whole origin,
    so what has to be anchored is each name: a bare `.*` admits `https://evil.example`, and
    `https://.*app.example` admits `https://evilapp.example`.

    Raises:
        ValueError: a sentence with the way out.

    """
    if not credentials:
        return
    if "*" in origins:
        msg = "CORS_ALLOW_ORIGINS must not be '*' with CORS_ALLOW_CREDENTIALS; list the origins"
        raise ValueError(msg)
    if regex and not (regex.startswith("^") and regex.endswith("$")):
        msg = (
            "CORS_ALLOW_ORIGIN_REGEX must start with ^ and end with $ with"
            f" CORS_ALLOW_CREDENTIALS; it is {regex!r}"
        )
        raise ValueError(msg)
    if regex and any(re.fullmatch(regex, origin) for origin in _STRANGERS):
        msg = (
            "CORS_ALLOW_ORIGIN_REGEX must not admit every origin with"
            f" CORS_ALLOW_CREDENTIALS; it is {regex!r}"
        )
        raise ValueError(msg)


_STRANGERS: Final = ("https://any.invalid", "http://any.invalid")
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(split_commas)
]
OriginRegex = Annotated[str, AfterValidator(_regex)]
