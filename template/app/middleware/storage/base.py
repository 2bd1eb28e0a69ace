"""The storage of counts and responses, as layers use it; other modules implement it."""

from collections.abc import Collection, Iterator
from typing import Any, Final, Protocol, runtime_checkable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.core.check import layered_in
from app.middleware.core.layer import Layer
from app.middleware.core.logger import layer_logger

_logger: Final = layer_logger(__name__)

_STARTED: Final = "lifespan.startup.complete"
_STOPPED: Final = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})


class StorageLostError(Exception):
    """The storage doesn't respond, or not in time."""


class Storage(Protocol):
    """A storage. Each operation is atomic, and may raise `StorageLostError`."""

    async def open(self, *, claims: bool) -> None:
        """Connect for claims, or for counts, if possible now; never raises."""

    async def close(self) -> None:
        """Close the connections; never raises, and may be called again."""

    async def increment(self, key: str, seconds: int) -> tuple[int, float]:
        """Increment a count that expires `seconds` after its first call; return both."""
        ...

    async def claim(self, key: str, value: bytes, seconds: int) -> bytes | None:
        """Store `value` under a free key and return None, or return the value that is there."""
        ...

    async def replace(self, key: str, old: bytes, new: bytes | None, seconds: int) -> bool:
        """
        Store `new`, or nothing, where `old` is or was lost.

        Return False where another value is.
        """
        ...


@runtime_checkable
class CountsAtOnce(Protocol):
    """A storage in this process, without waiting."""

    def count(self, key: str, seconds: int) -> tuple[int, float]:
        """Do as `Storage.increment`."""
        ...


class StoringLayer(Layer):
    """A layer that keeps something in `storage`, which is open while the service runs."""

    claims = False  # it counts

    def __init__(
        self, app: ASGIApp, *, storage: Storage, exempt_paths: Collection[str] = ()
    ) -> None:
        super().__init__(app, exempt_paths=exempt_paths)
        self.storage = storage

    def faults(self, service: Any) -> Iterator[str]:
        """Yield a sentence for each mounted app that would share what is kept for another one."""
        if isinstance(self.storage, CountsAtOnce):
            return  # each app has its own
        titles = [service.title]
        for place, mounted in layered_in(service):
            title = namespace({"app": mounted})
            if title in titles:
                yield (
                    f"The app mounted at {place} has the title {title!r} of another app here, and"
                    " STORAGE_URL keeps by title what layers count and store. Give it one of its"
                    f" own, such as FastAPI(title='{title} {place}')."
                )
            titles.append(title)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open the storage when the service starts, and close it when it stops."""

        async def send_attended(message: Message) -> None:
            # The server may end the process once it gets this message.
            if message["type"] == _STARTED:
                await self.storage.open(claims=self.claims)
            elif message["type"] in _STOPPED:
                await self.storage.close()
            await send(message)

        await self.app(scope, receive, send_attended)


def warn_of_second_run(key: str) -> None:
    """Log that the storage lost the claim of a request, and gave its key to another."""
    _logger.warning(
        "a request ran twice: while it was running, the storage lost its claim, and a retry"
        " claimed %s",
        key,
    )


def namespace(scope: Scope) -> str:
    """Return the service's name: services that share a storage must not share a key."""
    return getattr(scope.get("app"), "title", "")
