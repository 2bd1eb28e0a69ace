"""The storage of counts and answers, as the layers see it; another module keeps it."""

from typing import Final, Protocol, runtime_checkable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STARTED: Final = "lifespan.startup.complete"
_STOPPED: Final = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})


class StorageLostError(Exception):
    """The storage does not answer, or did not in time."""


class Storage(Protocol):
    """What a storage can do. Each operation is atomic, and may raise `StorageLostError`."""

    async def open(self) -> None:
        """Get ready, as far as that is possible now; never raises."""

    async def close(self) -> None:
        """Close the connections; never raises, and may be called again."""

    async def increment(self, key: str, seconds: int) -> tuple[int, float]:
        """Count up, from a first call for `seconds`; return the count and the seconds left."""
        ...

    async def claim(self, key: str, value: bytes, seconds: int) -> bytes | None:
        """Put `value` where nothing is and return None, or return what is there."""
        ...

    async def replace(self, key: str, old: bytes, new: bytes | None, seconds: int) -> bool:
        """Put `new`, or nothing, where `old` is; say whether it was there."""
        ...


@runtime_checkable
class CountsAtOnce(Protocol):
    """A storage in this process, which nobody waits for."""

    def count(self, key: str, seconds: int) -> tuple[int, float]:
        """Do as `Storage.increment`."""
        ...


async def attend_lifespan(
    storage: Storage, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Pass the lifespan on; open the storage when the service starts, close it when it stops."""

    async def send_attended(message: Message) -> None:
        # The server may end the process as soon as it gets this message.
        if message["type"] == _STARTED:
            await storage.open()
        elif message["type"] in _STOPPED:
            await storage.close()
        await send(message)

    await app(scope, receive, send_attended)


def namespace(scope: Scope) -> str:
    """Return the service's name: services that share a storage must not share a key."""
    return getattr(scope.get("app"), "title", "")
