"""Effects: whether a layer does anything for the requests of a route, and why not."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from app.middleware.order import LAYERS, Place

from .environment import EnvironmentSettings
from .exchange import HANDSHAKE, METHODS
from .layer import Layer
from .setting_types import entries_for

if TYPE_CHECKING:
    from .policies import Rule

_UNKNOWN: Final = Place("", "")


class Idle(NamedTuple):
    """Why a layer does nothing: what decides that, a clause, and what to do about it."""

    source: str
    because: str
    way_out: str = "leave out"


class Effects:
    """What the layers of a stack do, under the rules of its policies."""

    def __init__(self, settings: EnvironmentSettings, layers: Mapping[str, Layer]) -> None:
        self._settings = settings
        self._layers = layers

    def idle(
        self, name: str, rule: "Rule | None", path: str, method: str, *, literal: bool = True
    ) -> Idle | None:
        """Return why a layer does nothing for such requests, None where it does something."""
        place, layer = LAYERS.get(name, _UNKNOWN), self._layers.get(name)
        if rule and rule.policy.get(name) is False:
            off = f"{name}=False"
            return Idle(f"ROUTES[{rule.name!r}]", f"{off} is there too", f"leave out {off} or")
        if place.methods and method not in {HANDSHAKE, *place.methods}:
            return Idle(method, f"{name} is for {' and '.join(place.methods)} only")
        if layer is not None and layer.spares("", method):
            listing = self._naming(place.settings, METHODS)
            if listing and method != HANDSHAKE:
                return Idle(listing, f"{listing} lacks {method}", "add it there, or leave out")
            return Idle(method, f"{name} does nothing for {method}")
        if layer is not None and (layer.spares_route if literal else layer.spares)(path, method):
            words = entries_for(path, method)
            others = [setting for each in LAYERS.values() for setting in each.settings]
            listing = self._naming(place.settings, words) or self._naming(others, words) or name
            if isinstance(getattr(self._settings, listing.lower(), None), str):
                found, way_out = f"{path} is {listing}", "leave out"
            else:
                found, way_out = f"{path} is in {listing}", "take it out there, or leave out"
            return Idle(listing, found, way_out)
        needed = (self.idle(other, rule, path, method, literal=literal) for other in place.needs)
        return next(filter(None, needed), None)

    def _naming(self, settings: Collection[str], words: Collection[str]) -> str:
        """Return those of `settings` that are one of `words`, or a list with one."""
        return " and ".join(
            name
            for name in dict.fromkeys(settings)
            if any(word in _items(getattr(self._settings, name.lower(), ())) for word in words)
        )


def _items(value: object) -> Collection[object]:
    return value if isinstance(value, tuple) else (value,)
