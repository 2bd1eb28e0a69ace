"""Measurements in turn: what disturbs the machine for a while then disturbs all of them."""

import random
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Figure = TypeVar("Figure")


def interleaved(work: Mapping[Name, Callable[[], Figure]], rounds: int) -> list[dict[Name, Figure]]:
    """Call each once a round, in a new order; return what they returned, a round an entry."""
    return [
        {name: work[name]() for name in random.sample([*work], len(work))} for _ in range(rounds)
    ]
