"""Idempotency: runs a repeated POST or PATCH once, by its Idempotency-Key."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope

from .core.exchange import Decision, Exchange, Place
from .core.layer import HTTP
from .core.routes import hosts_in
from .problem import Refusal
from .storage.base import Storage, StorageLostError, StoringLayer, namespace
from .storage.responses import NOT_KEPT, RUNNING, Claim, Keeper, read, replay

if TYPE_CHECKING:
    from starlette.routing import Host

_METHODS: Final = frozenset({"POST", "PATCH"})
# Servers strip spaces around it.
_KEY: Final = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")
_SCHEMA: Final = {"type": "string", "pattern": f"^{_KEY.pattern}$"}
_HEADER: Final = b"idempotency-key"
_RENEWAL_SECONDS: Final = 20
_MALFORMED: Final = Refusal(
    status=400,
    detail="Send exactly one Idempotency-Key of 1 to 255 printable ASCII characters.",
)
_MISSING: Final = Refusal(status=400, detail="Send a new Idempotency-Key for each operation.")
_LOST: Final = Refusal(
    status=503,
    detail="Stored responses can't be read at the moment. Retry in a second.",
    headers={"Retry-After": "1"},
)
_REUSED: Final = Refusal(
    status=422, detail="This Idempotency-Key was used for another request. Use a new one."
)
_REFUSALS: Final = {
    RUNNING: Refusal(
        status=409,
        detail="A request with this Idempotency-Key is still running. Retry in a second.",
        headers={"Retry-After": "1"},
    ),
    NOT_KEPT: Refusal(
        status=409,
        detail="This request ran, but its response was too large to store or was cut off.",
    ),
}


class IdempotencyMiddleware(StoringLayer):
    """
    Replay the response to a POST or PATCH that a user repeats with its `Idempotency-Key`.

    A replay has the first response's status, headers and body, without Set-Cookie, and
    `Idempotency-Replayed: true`. The key of another request gets 422, and one whose request is
    still running 409 (draft-ietf-httpapi-idempotency-key-header-07). Responses of 2xx and 3xx are
    kept for `ttl` seconds. A 4xx, a 5xx or an exception releases the key, so the client can correct
    the request or retry it. After a request was cut off, its key is held
    for up to a minute, because its thread may still run. A response above 256 KiB, or one that the
    client didn't read to its end, isn't stored, and its repetition gets 409. While the storage is
    unreachable, requests with a key get 503, so nothing runs twice. Anonymous requests, those
    without a key and websockets pass; with `key_required`, a POST or PATCH without a key gets 400.
    """

    scopes = HTTP
    claims = True

    def __init__(
        self, app: ASGIApp, *, storage: Storage, ttl: int, key_required: bool = False
    ) -> None:
        super().__init__(app, storage=storage)
        self.key_required = key_required
        self.openapi_headers = {"Idempotency-Key": {"required": key_required, "schema": _SCHEMA}}
        self.ttl = ttl
        self._hosts: list[Host] | None = None

    def enter(self, exchange: Exchange) -> Decision:
        if exchange.method not in _METHODS:
            return None
        if _HEADER not in exchange.headers:
            return _MISSING if self.key_required else None
        if exchange.state.get("user") is None:
            return None
        if not _KEY.fullmatch(exchange.header(_HEADER) or ""):
            return _MALFORMED
        return self._once

    async def _once(self, exchange: Exchange, place: Place) -> None:
        try:
            body = await Request(exchange.scope, exchange.receive).body()
        except ClientDisconnect:
            return
        fingerprint = _fingerprint(exchange.scope, body, self._taking(exchange.scope))
        claim = Claim(self.storage, _claimed(exchange), fingerprint)
        try:
            found = await claim.take()
        except StorageLostError:
            await place.refuse(self.name, _LOST)
            return
        except asyncio.CancelledError:
            # It is unknown whether the key was claimed.
            await claim.free()
            raise
        if found is not None:
            await self._again(found, fingerprint, place)
            return
        exchange.read_files()
        keeper = Keeper(claim, seconds=self.ttl)
        exchange.receive = _repeated(body, exchange.receive)
        exchange.at_head(lambda _, __: keeper.taking_over)
        async with _held(claim, keeper):
            await place.proceed()

    def _taking(self, scope: Scope) -> list[str]:
        """Return the hosts by which routes take a request; other names are of the whole service."""
        if self._hosts is None:
            self._hosts = [*hosts_in(scope["app"].routes)]
        found = ((route.host, route.matches(scope)[1]) for route in self._hosts)
        return [f"{host} {taken['path_params']}" for host, taken in found if taken]

    async def _again(self, found: bytes, fingerprint: bytes, place: Place) -> None:
        """Respond to a request whose key is claimed already."""
        kind, first, response = read(found)
        if first == fingerprint and kind not in _REFUSALS:
            await replay(response, place.send)
        else:
            refusal = _REFUSALS[kind] if first == fingerprint else _REUSED
            await place.refuse(self.name, refusal)


@asynccontextmanager
async def _held(claim: Claim, keeper: Keeper) -> AsyncGenerator[None]:
    """Hold the key while the request runs; release it then, unless a response is kept."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(_RENEWAL_SECONDS)
            await claim.renew()

    renewal = asyncio.get_running_loop().create_task(renew())
    try:
        yield
    except (ClientDisconnect, asyncio.CancelledError):
        # The work of a response that was cut off is done. Else it may go on in a thread: the
        # claim, renewed no more, ends by itself.
        if keeper.succeeds:
            await keeper.end()
        raise
    except Exception:
        await claim.free()
        raise
    else:
        await keeper.end()
    finally:
        renewal.cancel()


def _claimed(exchange: Exchange) -> str:
    # As JSON, so that a user can't choose a key that looks like another user's.
    account = exchange.state["user"].account
    owner = json.dumps([namespace(exchange.scope), account, exchange.header(_HEADER)])
    return "answer:" + hashlib.sha256(owner.encode()).hexdigest()


def _fingerprint(scope: Scope, body: bytes, hosts: Sequence[str]) -> bytes:
    target = [scope["method"], scope["path"], scope["query_string"].decode("latin-1"), *hosts]
    return hashlib.sha256(json.dumps(target).encode() + b"\n" + body).digest()


def _repeated(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again
