"""Memo: remembers decisions about values that clients send, within a fixed size."""

from collections.abc import Callable
from typing import Final, TypeVar

Key = TypeVar("Key", bound=str | bytes)
Value = TypeVar("Value")

_LONGEST: Final = 255


class Memo(dict[Key, Value]):
    """
    What `function` returns for each key, remembered for `most` keys: the oldest make room.

    Long keys aren't remembered: clients choose them, and could fill the memory.
    """

    def __init__(self, function: Callable[[Key], Value], *, most: int) -> None:
        super().__init__()
        self._function = function
        self._most = most

    def __missing__(self, key: Key) -> Value:
        value = self._function(key)
        if len(key) <= _LONGEST:
            if len(self) >= self._most:
                del self[next(iter(self))]
            self[key] = value
        return value
