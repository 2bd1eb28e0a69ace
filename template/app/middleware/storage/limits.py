"""Limits: so many requests a period for each client, told in the headers of their answers."""

import re
from collections.abc import Awaitable
from math import ceil
from typing import Annotated, Final, Literal

from pydantic import AfterValidator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.core.scope import NAME
from app.middleware.problem import refuse

from .base import Storage, StorageLostError, namespace

OnError = Literal["allow", "refuse"]
Headers = list[tuple[bytes, bytes]]

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_STATE: Final = b"ratelimit"
_POLICY: Final = b"ratelimit-policy"
_NAMES: Final = frozenset({_STATE, _POLICY})
_STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)


class Limit:
    """
    Admit `rate` requests of each client, such as `100/minute`, and refuse the others.

    A client's window begins with its first request, so two windows side by side may admit
    twice the rate. The 429 and the answers from further in say what is left
    (draft-ietf-httpapi-ratelimit-headers-11), under `name`, beside what other limits say. While
    the storage is lost, `on_error` decides.
    """

    def __init__(
        self, *, layer: str, name: str, rate: str, storage: Storage, on_error: OnError
    ) -> None:
        most, _, self._period = rate.partition("/")
        self._most = int(most)
        self._seconds = _SECONDS[self._period]
        self._layer = layer
        self._name = name
        self._storage = storage
        self._on_error = on_error
        self._policy = (_POLICY, f'"{name}";q={most};w={self._seconds}'.encode())
        self._state = f'"{name}";r=%d;t=%d'.encode()

    async def spend(
        self, client: str, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let the request in to `app`, or answer 429."""
        key = f"limit:{self._name}:{client}:{namespace(scope)}"
        try:
            count, seconds_left = await self._storage.increment(key, self._seconds)
        except StorageLostError:
            await self._without_storage(app, scope, receive, send)
            return
        reset = ceil(seconds_left) or 1
        left = self._most - count
        state = (_STATE, self._state % (max(0, left), reset))

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] in _STARTS:
                headers = _joined(message.get("headers", ()), state, self._policy)
                message = {**message, "headers": headers}
            return send(message)

        if left >= 0:
            await app(scope, receive, send_with_headers)
        else:
            await self._refuse(reset, scope, receive, send_with_headers)

    async def _refuse(self, reset: int, scope: Scope, receive: Receive, send: Send) -> None:
        requests = "request" if self._most == 1 else "requests"
        await refuse(
            scope,
            receive,
            send,
            layer=self._layer,
            status=429,
            detail=f"{self._most} {requests} a {self._period} are allowed; retry in {reset} s.",
            headers={"Retry-After": str(reset)},
            close_code=1013,
        )

    async def _without_storage(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if self._on_error == "allow":
            await app(scope, receive, send)
            return
        await refuse(
            scope,
            receive,
            send,
            layer=self._layer,
            status=503,
            detail="Requests can't be counted at the moment; retry soon.",
            headers={"Retry-After": "1"},
            close_code=1013,
        )


def _joined(headers: Headers, *ours: tuple[bytes, bytes]) -> Headers:
    """Put our items in front of theirs: each of these headers is one list (RFC 9651)."""
    if _NAMES.isdisjoint(map(NAME, headers)):
        return [*headers, *ours]
    lists = [
        (name, b", ".join([item, *(value for their, value in headers if their == name)]))
        for name, item in ours
    ]
    return [*(header for header in headers if header[0] not in _NAMES), *lists]


def _rate(value: str) -> str:
    if not _RATE.fullmatch(value):
        msg = (
            "must be a number above 0 and a period, such as 100/minute"
            f" (or /second, /hour, /day), not {value!r}"
        )
        raise ValueError(msg)
    return value


Rate = Annotated[str, AfterValidator(_rate)]
