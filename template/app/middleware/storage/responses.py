"""Responses that are kept under a key: their format in the storage, and how to store them."""

import json
from secrets import token_bytes
from typing import Final

from starlette.types import Message, Send

from .base import Storage, StorageLostError, warn_of_second_run

# The first byte of what is stored; the fingerprint of the request follows.
RUNNING: Final = b"r"
NOT_KEPT: Final = b"l"
_ANSWERED: Final = b"a"

_DIGEST_SIZE: Final = 32
_LEASE_SECONDS: Final = 60
LARGEST: Final = 256 * 1024
_REPLAYED: Final = (b"idempotency-replayed", b"true")
_SUCCESSES: Final = range(200, 400)


class Claim:
    """The claim of one request on its key, until a response is stored or the key released."""

    def __init__(self, storage: Storage, place: str, fingerprint: bytes) -> None:
        self._storage = storage
        self._place = place
        self._fingerprint = fingerprint
        # The random end distinguishes it from an expired claim of the same request.
        self._value = RUNNING + fingerprint + token_bytes(16)
        self._ended = False

    async def take(self) -> bytes | None:
        """Return the value that is stored already, if any."""
        return await self._storage.claim(self._place, self._value, _LEASE_SECONDS)

    async def renew(self) -> None:
        """Renew the claim of a long request; that of a dead process expires."""
        # Background tasks go on when the response is kept, which may have expired.
        if not self._ended:
            await self._replace(self._value, _LEASE_SECONDS)

    async def keep(self, answer: bytes | None, seconds: int) -> None:
        """Store the response, or only that there was one; if that fails, the claim expires."""
        kept = NOT_KEPT + self._fingerprint
        if answer is not None:
            kept = _ANSWERED + self._fingerprint + answer
        self._ended = True
        if not await self._replace(kept, seconds):
            warn_of_second_run(self._place)

    async def free(self) -> None:
        """Let the request run again."""
        self._ended = True
        await self._replace(None, _LEASE_SECONDS)

    async def _replace(self, new: bytes | None, seconds: int) -> bool:
        """Return False if another request has the key."""
        try:
            return await self._storage.replace(self._place, self._value, new, seconds)
        except StorageLostError:
            return True  # nobody knows


class Keeper:
    """Passes a response on, and stores it if it is a complete 2xx or 3xx."""

    def __init__(self, claim: Claim, *, seconds: int) -> None:
        self._claim = claim
        self._seconds = seconds
        self._answer: bytearray | None = None
        self.succeeds = False
        self._kept = False

    def taking_over(self, send: Send) -> Send:
        """Return a `send` that records the response and passes it to `send`."""
        self._send = send
        return self.send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.succeeds = message["status"] in _SUCCESSES
            self._answer = bytearray(_head(message))
        # Others, such as `http.response.push`, are no part of the response.
        elif message["type"] == "http.response.body" and self.succeeds and not self._kept:
            self._take(message)
            if not message.get("more_body", False):
                self._kept = True
                # Stored first: a client that has the response may repeat the request.
                answer = None if self._answer is None else bytes(self._answer)
                await self._claim.keep(answer, self._seconds)
        await self._send(message)

    def _take(self, message: Message) -> None:
        if self._answer is None:
            return
        self._answer.extend(message.get("body", b""))
        if len(self._answer) > LARGEST:
            self._answer = None

    async def end(self) -> None:
        """Release the key, unless a response started: then the work is done, even if it was cut."""
        if self._kept:
            return
        if self.succeeds:
            await self._claim.keep(None, self._seconds)
        else:
            await self._claim.free()


def read(found: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the kind of a stored value, the fingerprint of its request, and its response."""
    return found[:1], found[1 : 1 + _DIGEST_SIZE], found[1 + _DIGEST_SIZE :]


async def replay(answer: bytes, send: Send) -> None:
    """Send a stored response, marked as a replay."""
    head, _, body = answer.partition(b"\n")
    status, headers = json.loads(head)
    packed = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [*packed, _REPLAYED]})
    await send({"type": "http.response.body", "body": body})


def _head(message: Message) -> bytes:
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in message.get("headers", ())
        if name.lower() != b"set-cookie"
    ]
    return json.dumps([message["status"], headers]).encode() + b"\n"
