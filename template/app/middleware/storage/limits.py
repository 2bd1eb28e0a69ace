"""Limits: how many requests each client can send in a period, reported in headers."""

import re
from collections.abc import Awaitable
from hashlib import sha256
from math import ceil
from typing import Annotated, Final, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator
from starlette.status import WS_1013_TRY_AGAIN_LATER

from app.middleware.core.exchange import Decision, Exchange
from app.middleware.core.headers import Clash, HeaderRule
from app.middleware.core.reading import in_any_case, plain
from app.middleware.problem import Refusal

from .base import CountsAtOnce, Storage, StorageLostError, namespace

OnError = Annotated[Literal["allow", "refuse"], in_any_case("allow", "refuse")]

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_LONGEST_NAME: Final = 255
_STATE: Final = b"ratelimit"
_POLICY: Final = b"ratelimit-policy"
_UNCOUNTED: Final = Refusal(
    status=503,
    detail="Requests can't be counted at the moment. Retry in a second.",
    headers={"Retry-After": "1"},
    close_code=WS_1013_TRY_AGAIN_LATER,
)


class Limit:
    """
    Allow `rate` requests of each client, such as `100/minute`, and reject the rest.

    A client's window starts with its first request, so two windows in a row can allow twice the
    rate. The 429 and the responses of inner layers report what is left, under `name`, beside
    other limits (draft-ietf-httpapi-ratelimit-headers-11). While the storage is unreachable,
    `on_error` decides.
    """

    def __init__(self, *, name: str, rate: str, storage: Storage, on_error: OnError) -> None:
        most, _, self._period = rate.partition("/")
        self._most = int(most)
        self._seconds = _SECONDS[self._period]
        self._rule = HeaderRule({_STATE: Clash.PREPEND, _POLICY: Clash.PREPEND})
        # Quoted, so that no two clients and names make the same key.
        self._key = quote(name, safe="") + ":"
        self._storage = storage
        self._on_error = on_error
        self._count = storage.count if isinstance(storage, CountsAtOnce) else None
        self._policy = (_POLICY, f'"{name}";q={most};w={self._seconds}'.encode())
        self._state = f'"{name.replace("%", "%%")}";r=%d;t=%d'.encode()

    def spend(self, client: str, exchange: Exchange) -> Decision | Awaitable[Decision]:
        """Count a request of `client`, and decide about it as `Layer.enter` does."""
        if len(client) > _LONGEST_NAME:
            # The issuer chooses the user's ID.
            client = sha256(client.encode("utf-8", "surrogatepass")).hexdigest()
        if self._count is not None:
            # Nobody else counts there.
            count, seconds_left = self._count(self._key + client, self._seconds)
            return self._judge(exchange, count, seconds_left)
        key = f"limit:{self._key}{client}:{namespace(exchange.scope)}"
        return self._ask(exchange, key)

    async def _ask(self, exchange: Exchange, key: str) -> Decision:
        try:
            counted = await self._storage.increment(key, self._seconds)
        except StorageLostError:
            return _UNCOUNTED if self._on_error == "refuse" else None
        return self._judge(exchange, *counted)

    def _judge(self, exchange: Exchange, count: int, seconds_left: float) -> Refusal | None:
        exceeded = count > self._most
        left = 0 if exceeded else self._most - count
        reset = ceil(seconds_left) or 1
        exchange.add(self._rule, [(_STATE, self._state % (left, reset)), self._policy])
        if not exceeded:
            return None
        requests = "request" if self._most == 1 else "requests"
        return Refusal(
            status=429,
            detail=f"The limit is {self._most} {requests} per {self._period}. Retry in {reset} s.",
            headers={"Retry-After": str(reset)},
            close_code=WS_1013_TRY_AGAIN_LATER,
        )


def _spelled(value: object) -> object:
    """Read `100 / Minute` too."""
    text = plain(value)
    return re.sub(r"\s*/\s*", "/", text.lower()) if isinstance(text, str) else text


def _rate(value: str) -> str:
    if not _RATE.fullmatch(value):
        msg = (
            "must be a number above 0 and a period, such as 100/minute"
            f" (or /second, /hour, /day), not {value!r}"
        )
        raise ValueError(msg)
    return value


Rate = Annotated[str, BeforeValidator(_spelled), AfterValidator(_rate)]
