"""Header rules: what to do if a response already has a header that a layer adds."""

from collections.abc import Iterable, Mapping
from enum import Enum
from operator import itemgetter
from typing import Final

Headers = list[tuple[bytes, bytes]]

# `name in map(NAME, headers)` looks a third faster than a loop, on every response.
NAME: Final = itemgetter(0)


# All names that some rule has: a response with none of them clashes with no layer.
rule_names: Final[set[bytes]] = set()
_first_rules: Final[dict[bytes, "HeaderRule"]] = {}


class Clash(Enum):
    """What to do if the response already has a header of that name."""

    KEEP = "keep the one that is there"
    REPLACE = "replace the one that is there"
    PREPEND = "put the items of the layer in front, in one header (RFC 9110, 5.3)"
    APPEND = "put the items of the layer at the end, in one header"
    BOTH = "send both, each on a line of its own"


# Python looks a member up in its class as slowly as it merges a header.
_KEEP, _REPLACE, _PREPEND, _, _BOTH = Clash


class HeaderRule:
    """
    The names of the headers that a layer may add, each with its `Clash`.

    Names are in lower case, as in ASGI. Each layer has its own rule, so that clashes are known in
    advance.
    """

    __slots__ = ("_clashes", "_names", "shared")

    def __init__(self, clashes: Mapping[bytes, Clash]) -> None:
        self._clashes = clashes
        self._names = frozenset(clashes)
        # Whether another rule has a name of this one, so that a look is needed in any case.
        self.shared = False
        rule_names.update(clashes)
        for name in clashes:
            other = _first_rules.setdefault(name, self)
            if other is not self:
                self.shared = other.shared = True

    def merge(self, theirs: Headers, ours: Headers) -> None:
        """Put `ours` into `theirs`."""
        names = [*map(NAME, theirs)]
        for header in ours:
            name, value = header
            clash = self._clashes[name] if name in names else _BOTH
            if clash is _BOTH:
                theirs.append(header)
            elif clash is not _KEEP:
                place = names.index(name)
                present = theirs[place][1]
                while names.count(name) > 1:  # it was sent on several lines
                    other = names.index(name, place + 1)
                    del names[other]
                    present += b", " + theirs.pop(other)[1]
                if clash is not _REPLACE:
                    value = b", ".join((value, present) if clash is _PREPEND else (present, value))
                theirs[place] = (name, value)


def first(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """Return the value of the first header of this name."""
    for name, value in headers:
        if name == wanted:
            return value
    return None
