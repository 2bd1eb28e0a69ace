"""Memory storage: counts and responses in this process, within fixed bounds."""

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from time import monotonic
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator

from app.middleware.core.reading import Plain

Entry = TypeVar("Entry")
Values = OrderedDict[str, tuple[bytes, float]]

_MOST_COUNTS: Final = 100_000
_MOST_BYTES: Final = 64 * 1024 * 1024
# Bytes of an entry besides its key and its value, roughly.
_BYTES_OF_ENTRY: Final = 300


@dataclass(slots=True)
class _Window:
    count: int
    ends_at: float


class MemoryStorage:
    """
    Keep counts and responses in this process; another worker has its own.

    It holds at most 100,000 counts for each length of a window, and 64 MiB of responses. Above
    that it drops the oldest: the client of a dropped count gets a new window early, and a dropped
    response is forgotten early. The claim of a request that runs is never dropped. Every operation
    takes the same time, however much is kept.
    """

    def __init__(self) -> None:
        # One dictionary for each length, so that the oldest entry is the first to expire.
        self.counts: defaultdict[int, OrderedDict[str, _Window]] = defaultdict(OrderedDict)
        self.claims: Values = OrderedDict()
        self.answers: Values = OrderedDict()
        self._bytes = 0

    async def open(self, *, claims: bool) -> None:
        """Do nothing: memory needs no connection."""

    async def close(self) -> None:
        """Do nothing: memory ends with the process."""

    async def increment(self, key: str, seconds: int) -> tuple[int, float]:
        return self.count(key, seconds)

    def count(self, key: str, seconds: int) -> tuple[int, float]:
        """Do as `increment`, at once."""
        counts = self.counts[seconds]
        now = monotonic()
        window = counts.get(key)
        if window is not None and window.ends_at > now:
            window.count += 1
            return window.count, window.ends_at - now
        counts.pop(key, None)
        # Two at most are removed for each new one, so no request pays for a long clean-up.
        for _ in range(2):
            if counts and (len(counts) >= _MOST_COUNTS or _first(counts).ends_at <= now):
                counts.popitem(last=False)
        counts[key] = _Window(1, now + seconds)
        return 1, float(seconds)

    async def claim(self, key: str, value: bytes, seconds: int) -> bytes | None:
        if found := self._find(key):
            return found
        self._drop(key)
        self._hold(key, value, seconds)
        return None

    async def replace(self, key: str, old: bytes, new: bytes | None, seconds: int) -> bool:
        if self._find(key) not in {b"", old}:
            return False
        self._drop(key)
        if new == old:
            self._hold(key, old, seconds)
        elif new is not None:
            self._keep(key, new, seconds)
        return True

    def _find(self, key: str) -> bytes:
        value, ends_at = self.claims.get(key) or self.answers.get(key) or (b"", 0.0)
        return value if ends_at > monotonic() else b""

    def _hold(self, key: str, claim: bytes, seconds: int) -> None:
        now = monotonic()
        self.claims[key] = (claim, now + seconds)
        for _ in range(2):  # as with counts
            if _first(self.claims)[1] <= now:
                self.claims.popitem(last=False)

    def _keep(self, key: str, answer: bytes, seconds: int) -> None:
        now = monotonic()
        self.answers[key] = (answer, now + seconds)
        self._bytes += len(key) + len(answer) + _BYTES_OF_ENTRY
        while self._bytes > _MOST_BYTES:
            self._drop(next(iter(self.answers)))
        for _ in range(2):
            if _first(self.answers)[1] <= now:
                self._drop(next(iter(self.answers)))

    def _drop(self, key: str) -> None:
        self.claims.pop(key, None)
        if key in self.answers:
            value, _ = self.answers.pop(key)
            self._bytes -= len(key) + len(value) + _BYTES_OF_ENTRY


def _first(entries: OrderedDict[str, Entry]) -> Entry:
    return next(iter(entries.values()))


def _memory(value: str) -> str:
    if value.lower() != "memory://":
        msg = (
            "must be memory://, since this service was made with the answer storage=memory"
            " (`copier update --data storage=redis` changes that)"
        )
        raise ValueError(msg)
    return value.lower()


StorageUrl = Annotated[str, AfterValidator(_memory), Plain]
