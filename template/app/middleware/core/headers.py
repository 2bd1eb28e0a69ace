"""Header rules: what becomes of a header that a layer adds where the response has one already."""

from collections.abc import Mapping
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
    """What to do with a header of the layer where the response has one of that name."""

    KEEP = "keep the one that is there"
    REPLACE = "replace the one that is there"
    PREPEND = "put the items of the layer in front, in one header (RFC 9110, 5.3)"
    APPEND = "put the items of the layer at the end, in one header"
    BOTH = "send both, each on a line of its own"


class HeaderRule:
    """
    The names of the headers that a layer may add, each with its `Clash`.

    Names are in lower case, as ASGI has them. Two layers never use one rule: that they may clash is
    known from their having a rule each.
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

    def merge(self, theirs: Headers, ours: Headers) -> Headers:
        """Return `theirs`, changed in place where nothing clashes, with `ours`."""
        if self._names.isdisjoint(map(NAME, theirs)):
            theirs += ours
            return theirs
        for name, value in ours:
            theirs = _merged(theirs, name, value, self._clashes[name])
        return theirs


def _merged(headers: Headers, name: bytes, value: bytes, clash: Clash) -> Headers:
    present = [their for key, their in headers if key == name]
    if present and clash is Clash.KEEP:
        return headers
    if clash is Clash.PREPEND:
        value = b", ".join([value, *present])
    if clash is Clash.APPEND:
        value = b", ".join([*present, value])
    if clash is not Clash.BOTH:
        headers = [item for item in headers if item[0] != name]
    return [*headers, (name, value)]
