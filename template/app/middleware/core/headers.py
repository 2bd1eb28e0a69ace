"""Header rules: what to do if a response already has a header that a layer adds."""

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from typing import Final, TypeAlias

Headers = list[tuple[bytes, bytes]]
# The names that rules share, of headers that layers have added; None where any name may clash.
Added: TypeAlias = frozenset[bytes] | None
NO_NAMES: Final[frozenset[bytes]] = frozenset()

# `name in map(NAME, headers)` looks a third faster than a loop, on every response.
NAME: Final = itemgetter(0)


# How many bytes of one header of a request are parsed at most, since all others wait meanwhile: as
# many as uvicorn and hypercorn take with h11. Other servers take more, some any number.
LONGEST: Final = 16 * 1024

# All names that some rule has: a response with none of them clashes with no layer.
rule_names: Final[set[bytes]] = set()
_first_rules: Final[dict[bytes, "HeaderRule"]] = {}


class Clash(Enum):
    """What to do if the response already has a header of that name."""

    KEEP = "keep the one that is there"
    REPLACE = "replace the one that is there"
    PREPEND = "put the items of the layer in front, in one header (RFC 9110, 5.3)"
    APPEND = "put the items of the layer at the end, in one header; of names those that it lacks"
    BOTH = "send both, each on a line of its own"


# Python looks a member up in its class as slowly as it merges a header.
_KEEP, _REPLACE, _PREPEND, _APPEND, _BOTH = Clash
_VARY: Final = b"vary"
# Whose items are names of headers, in any case.
_OF_NAMES: Final = frozenset({b"access-control-expose-headers", _VARY})


class HeaderRule:
    """
    The names of the headers that a layer may add, each with its `Clash`.

    Names are in lower case, as in ASGI. Each layer has its own rule, so that clashes are known in
    advance.
    """

    __slots__ = ("_clashes", "shared")

    def __init__(self, clashes: Mapping[bytes, Clash]) -> None:
        self._clashes = clashes
        # The names that another rule has too, which need a look in any case.
        self.shared = NO_NAMES
        rule_names.update(clashes)
        for name in clashes:
            other = _first_rules.setdefault(name, self)
            if other is not self:
                self.shared |= {name}
                other.shared |= {name}

    def merge(self, theirs: Headers, ours: Headers, added: Added = None) -> Added:
        """Put `ours` into `theirs`, to which layers have `added` these names; return all then."""
        if added is not None and self.shared.isdisjoint(added):
            theirs += ours
            return added | self.shared
        among = self._clashes if added is None else self.shared
        names = [*map(NAME, theirs)]
        for header in ours:
            name, value = header
            clash = self._clashes[name] if name in among and name in names else _BOTH
            if clash is _BOTH:
                theirs.append(header)
            elif clash is not _KEEP:
                place = names.index(name)
                present = theirs[place][1]
                while names.count(name) > 1:  # it was sent on several lines
                    other = names.index(name, place + 1)
                    del names[other]
                    present += b", " + theirs.pop(other)[1]
                if clash is _APPEND and name in _OF_NAMES:
                    value = _completed(name, present, value)
                elif clash is not _REPLACE:
                    value = b", ".join((value, present) if clash is _PREPEND else (present, value))
                theirs[place] = (name, value)
        return None if added is None else added | self.shared


@lru_cache(maxsize=128)
def _completed(header: bytes, present: bytes, names: bytes) -> bytes:
    """Return a list with the names that it lacks; in Vary, `*` has all (RFC 9110, 12.5.5)."""
    known = {name.strip().lower() for name in present.split(b",")}
    if header == _VARY and b"*" in known:
        return present
    lacked = [name for name in names.split(b", ") if name.lower() not in known]
    return b", ".join([present, *lacked])


def first(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """Return the value of the first header of this name."""
    for name, value in headers:
        if name == wanted:
            return value
    return None
