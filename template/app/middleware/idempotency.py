"""Idempotency: a request that is sent again under its key gets the first answer."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .core.scope import only_header
from .problem import refuse
from .storage.base import Storage, StorageLostError, attend_lifespan, namespace
from .storage.responses import RUNNING, TOO_LARGE, Claim, Keeper, read, replay

_METHODS: Final = frozenset({"POST", "PATCH"})
_KEY: Final = re.compile(r"[ -~]{1,255}")
_HEADER: Final = b"idempotency-key"
_RENEWAL_SECONDS: Final = 20


class IdempotencyMiddleware:
    """
    Replay the answer to a POST or PATCH that a user sends again under its `Idempotency-Key`.

    A replay has the status, the headers and the body of the first answer, without Set-Cookie, and
    `Idempotency-Replayed: true`. The same key with another request is answered 422, one that is
    still running 409 (draft-ietf-httpapi-idempotency-key-header-07). Answers of 2xx and 3xx are
    kept for `ttl` seconds. A refusal (4xx) or a failure (5xx, an exception) frees the key: the
    client can mend the one and retry the other. A request that was cut off, such as by Timeout, may
    run on in its thread: its key stays taken for up to a minute. An answer above 256 KiB isn't
    kept, but its request doesn't run again: 409. While the storage is lost requests with a key are
    answered 503, so nothing runs twice. Anonymous requests and those without a key pass untouched,
    as do websockets.
    """

    def __init__(self, app: ASGIApp, *, storage: Storage, ttl: int) -> None:
        self.app = app
        self.storage = storage
        self.ttl = ttl

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return attend_lifespan(self.storage, self.app, scope, receive, send)
        if scope["type"] != "http" or not _asks(scope):
            return self.app(scope, receive, send)
        if _KEY.fullmatch(key := only_header(scope, _HEADER) or ""):
            return self._once(key, scope, receive, send)
        detail = "Idempotency-Key must be sent once, as 1 to 255 printable ASCII characters."
        return _refuse(400, detail, scope, receive, send)

    async def _once(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        fingerprint = _fingerprint(scope, body)
        claim = Claim(self.storage, _place(scope, key), fingerprint)
        try:
            found = await claim.take()
        except StorageLostError:
            detail = "What ran under this key can't be looked up at the moment; retry soon."
            await _refuse(503, detail, scope, receive, send, retry_after=1)
            return
        except asyncio.CancelledError:
            # Nobody knows yet whether it was taken.
            await claim.free()
            raise
        if found is not None:
            await _again(found, fingerprint, scope, receive, send)
            return
        keeper = Keeper(send, claim, seconds=self.ttl)
        async with _held(claim, keeper):
            await self.app(scope, _repeated(body, receive), keeper.send)


@asynccontextmanager
async def _held(claim: Claim, keeper: Keeper) -> AsyncIterator[None]:
    """Hold the key as long as the request runs; freed after it, unless an answer is kept."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(_RENEWAL_SECONDS)
            await claim.renew()

    renewal = asyncio.get_running_loop().create_task(renew())
    try:
        yield
    except Exception:
        await keeper.end()
        raise
    else:
        await keeper.end()
    finally:
        # A cancellation comes only here: the claim, renewed no more, ends by itself.
        renewal.cancel()


def _asks(scope: Scope) -> bool:
    return (
        scope["method"] in _METHODS
        and scope.get("state", {}).get("user") is not None
        and any(name == _HEADER for name, _ in scope["headers"])
    )


def _place(scope: Scope, key: str) -> str:
    # As JSON, so that no user can choose a key that reads like another user's.
    owner = json.dumps([namespace(scope), scope["state"]["user"].id, key])
    return "answer:" + hashlib.sha256(owner.encode()).hexdigest()


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    target = [scope["method"], scope["path"], scope["query_string"].decode("latin-1")]
    return hashlib.sha256(json.dumps(target).encode() + b"\n" + body).digest()


async def _body(receive: Receive) -> bytes | None:
    """Read all of it; None if the client goes away."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _repeated(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def _again(
    found: bytes, fingerprint: bytes, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer a request whose key was taken."""
    kind, first, answer = read(found)
    if first != fingerprint:
        detail = "This Idempotency-Key was used for another request; take a new one."
        await _refuse(422, detail, scope, receive, send)
    elif kind == RUNNING:
        detail = "A request with this Idempotency-Key is still running; retry soon."
        await _refuse(409, detail, scope, receive, send, retry_after=1)
    elif kind == TOO_LARGE:
        detail = "This request was answered, but its answer was too large to keep."
        await _refuse(409, detail, scope, receive, send)
    else:
        await replay(answer, send)


async def _refuse(
    status: int,
    detail: str,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    retry_after: int | None = None,
) -> None:
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    await refuse(
        scope, receive, send, layer="idempotency", status=status, detail=detail, headers=headers
    )
