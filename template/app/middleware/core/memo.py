"""Memo: remembers decisions about values that clients send, within a fixed size."""

from collections.abc import Callable
from typing import Final, TypeVar

from .headers import LONGEST

Key = TypeVar("Key", bound=str | bytes)
Value = TypeVar("Value")

_LONGEST_REMEMBERED: Final = 255


class Memo(dict[Key, Value]):
    """
    What `function` returns for each key, remembered for `most` keys: the oldest make room.

    Clients choose the keys: long ones aren't remembered, or they could fill the memory, and those
    that are too long to be parsed count as empty.
    """

    def __init__(self, function: Callable[[Key], Value], *, most: int) -> None:
        super().__init__()
        self._function = function
        self._most = most

    def __missing__(self, key: Key) -> Value:
        value = self._function(key if len(key) <= LONGEST else type(key)())
        if len(key) <= _LONGEST_REMEMBERED:
            if len(self) >= self._most:
                del self[next(iter(self))]
            self[key] = value
        return value
