"""Memo: remembers decisions about values that clients send, within a fixed size."""

from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeVar

Key = TypeVar("Key", str, bytes, str | None, bytes | None)
Value = TypeVar("Value")

_LONGEST: Final = 255


def remembered(function: Callable[[Key], Value], *, most: int) -> Callable[[Key], Value]:
    """
    Return `function` with a cache for the last `most` arguments.

    Long arguments aren't cached: clients choose them, and could fill the memory.
    """
    known = lru_cache(most)(function)

    def decide(key: Key) -> Value:
        return function(key) if len(key or "") > _LONGEST else known(key)

    return decide
