"""Memo: decisions about what clients send, remembered within a bound in bytes."""

from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeVar

Key = TypeVar("Key", str, bytes, str | None, bytes | None)
Value = TypeVar("Value")

_LONGEST: Final = 255


def remembered(function: Callable[[Key], Value], *, most: int) -> Callable[[Key], Value]:
    """
    Return `function` with a memory for the last `most` arguments.

    A long one is decided anew each time: a client chooses it, and would choose what is kept.
    """
    known = lru_cache(most)(function)

    def decide(key: Key) -> Value:
        return function(key) if len(key or "") > _LONGEST else known(key)

    return decide
