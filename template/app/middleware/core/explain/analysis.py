"""The analysis: from what was recorded to the facts of each layer."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from starlette._utils import get_route_path
from starlette.status import HTTP_101_SWITCHING_PROTOCOLS, HTTP_403_FORBIDDEN
from starlette.types import Scope

from app.middleware.core.check import broken_rules, policies_of
from app.middleware.core.exchange import HANDSHAKE
from app.middleware.core.headers import Headers
from app.middleware.core.policies import Policies
from app.middleware.core.routes import mounted_for, route_of, template_of
from app.middleware.core.setting_types import entries_for
from app.middleware.order import LAYERS, Rule
from app.middleware.problem import phrase

from .facts import (
    Change,
    Explanation,
    Outcome,
    Pairs,
    Received,
    Refusal,
    Route,
    Sent,
    Setting,
    Step,
)
from .masking import Masker, shown
from .recorder import Passage
from .run import Record
from .verdict import browser_sees, find_fault, short

# What surrounds the layers; docs/onion.svg has the same names.
OUTER: Final = "outer"
EXCEPTIONS: Final = "exceptions"
ROUTES: Final = "routes"

_ERROR: Final = 400
_PARTS: Final = ("client", "scheme", "method", "path", "root_path", "query_string", "http_version")
_ELSEWHERE: Final = frozenset({*_PARTS, "app", "headers", "state", "type"})
_LONGEST: Final = 100
_LISTS: Final = (tuple, list, frozenset)
# An object without a text of its own is a tool of a layer, and says nothing about the request.
_INTERNAL: Final = re.compile(r"<\w+>")


def explain(record: Record, policies: Policies, masker: Masker) -> Explanation:
    """Return what each layer did in this run."""
    return _Analysis(record, policies, masker).explanation()


class _Analysis:
    """
    Compares the places of a run with each other.

    Component `n` is between the places `n` and `n + 1`; the last, the routes, has only an
    outside.
    """

    def __init__(self, record: Record, policies: Policies, masker: Masker) -> None:
        self._record = record
        self._passages = record.passages
        self._settings = policies.settings
        self._masker = masker
        self._components = [OUTER, *record.names, EXCEPTIONS, ROUTES]
        innermost = record.passages[max(record.passages)]
        # As it arrived: a mount changes the scope itself.
        self._request = innermost.request
        self._path = get_route_path(self._request)
        # What the layers recorded, rejections too, is in the state that they share.
        self._state: dict[str, Any] = innermost.scope.get("state") or {}
        self._context = route_of(self._request)
        self._holds = policies.explain(self._request, self._context) if self._context else []
        self._place = self._find_responder()
        self._responder = None if self._place is None else self._name(self._place)

    def explanation(self) -> Explanation:
        record, mask = self._record, self._masker
        request = record.request
        problem = _problem(record.client)
        detail = problem.get("detail", self._state.get("refused_because"))
        broken = sorted(broken_rules(record.names), key=self._is_elsewhere)
        return Explanation(
            request=Sent(
                method=HANDSHAKE if request.websocket else request.method,
                url=mask.text(request.url),
                client=request.client,
                headers=self._pairs(request.headers),
                typed=sorted(request.typed),
                size=len(request.body),
            ),
            broken_rules=[
                f"{rule.outside} must run outside {rule.inside}: {rule.because}" for rule in broken
            ],
            steps=[self._step(place) for place in range(len(self._components))],
            responded_by=self._responder,
            refused_inside=self._state.get("refused_by") if self._responder == ROUTES else None,
            says=None if detail is None else mask.text(str(detail)),
            refusal=self._refusal(),
            fault=find_fault(self._passages, self._components, self._place, mask),
            never_reached=[
                name for place, name in enumerate(self._components) if place not in self._passages
            ],
            route=self._route(),
            browser=self._browser(),
            response=self._response(),
            cut_off=record.cut_off,
        )

    def _is_elsewhere(self, rule: Rule) -> bool:
        """Sort the rules about the layer that responded to the front."""
        return self._responder not in {rule.outside, rule.inside}

    # The layers

    def _step(self, place: int) -> Step:
        name = self._components[place]
        passage, inside = self._passages.get(place), self._passages.get(place + 1)
        if passage is None:
            return Step(name=name)
        is_layer = 0 < place < len(self._components) - 2
        wanted = set(self._header_names(name))
        return Step(
            name=name,
            reached=True,
            arrived=list(self._arrived(passage.request)),
            request=list(self._changes(passage.request, inside.request))
            if is_layer and inside
            else [],
            read=[pair for pair in self._pairs(passage.request["headers"]) if pair[0] in wanted],
            from_inside=_outcome(inside),
            to_outside=_outcome(passage),
            responded=place == self._place,
            headers=self._header_changes(place, passage, inside),
            bytes_in=passage.received,
            bytes_out=len(passage.body),
            bytes_from_inside=len(inside.body) if inside else 0,
            seconds=max(0.0, passage.seconds - (inside.seconds if inside else 0.0)),
        )

    def _parts(self, request: Scope) -> Iterator[tuple[str, str]]:
        for part in _PARTS:
            if part in request:
                value = request[part]
                if part == "client":
                    value = value[0] if value else "unknown"
                text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                yield part, self._masker.text(text)

    def _values(self, values: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
        for key, value in values:
            text = self._masker.value(key, value)
            if not _INTERNAL.fullmatch(text):
                yield key, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

    def _arrived(self, request: Scope) -> Iterator[tuple[str, str]]:
        yield from self._parts(request)
        for key, text in self._values((request.get("state") or {}).items()):
            yield f"state.{key}", text

    def _changes(self, before: Scope, after: Scope) -> Iterator[Change]:
        """Yield what a layer changed on the request."""
        yield from _compared(dict(self._parts(before)), dict(self._parts(after)))
        state, known = after.get("state") or {}, before.get("state") or {}
        for prefix, theirs, ours in (("state.", known, state), ("", before, after)):
            changed = [
                (key, value)
                for key, value in ours.items()
                if (prefix or key not in _ELSEWHERE) and theirs.get(key, _Nothing) != value
            ]
            old = dict(self._values((key, theirs[key]) for key, _ in changed if key in theirs))
            for key, text in self._values(changed):
                yield Change(name=prefix + key, before=old.get(key), after=text)
        yield from self._compared_headers(before["headers"], after["headers"])

    def _header_changes(self, place: int, outside: Passage, inside: Passage | None) -> list[Change]:
        if outside.head is None:
            return []
        passed = inside.head if inside and place != self._place else None
        before = passed["headers"] if passed else []
        return list(self._compared_headers(before, outside.head["headers"]))

    def _compared_headers(self, before: Headers, after: Headers) -> Iterator[Change]:
        # Two secrets look the same once they are masked.
        changed = {change.name for change in _compared(_joined(before), _joined(after))}
        old, new = (_joined(headers, self._masker) for headers in (before, after))
        for name in dict.fromkeys((*old, *new)):
            if name in changed:
                yield Change(name=name, before=old.get(name), after=new.get(name))

    def _header_names(self, layer: str) -> Iterator[str]:
        for item in LAYERS[layer].reads if layer in LAYERS else ():
            if item.startswith("$"):
                value = shown(getattr(self._settings, item[1:].lower()))
                yield from (part.partition(":")[0].strip().lower() for part in value.split(","))
            else:
                yield item.lower()

    def _pairs(self, headers: Headers) -> Pairs:
        mask = self._masker
        return [(name, mask.text(mask.header(name, value))) for name, value in _decoded(headers)]

    # What came of it

    def _find_responder(self) -> int | None:
        """Return the place of the innermost component whose own response reached the client."""
        if self._record.client.head is None:
            return None
        place = 0
        while (inside := self._passages.get(place + 1)) and inside.head:
            # A response that passes was sent inside before it is sent outside.
            if inside.moment > self._passages[place].moment:
                break
            place += 1
        return place

    def _name(self, place: int) -> str:
        """Return the component at `place`; where a layer's own route rejects, that layer."""
        layer = str(self._state.get("refused_by"))
        settings = LAYERS[layer].settings if layer in LAYERS else ()
        own = any(getattr(self._settings, name.lower()) == self._path for name in settings)
        return layer if own else self._components[place]

    def _refusal(self) -> Refusal | None:
        layer = self._responder
        status = _outcome(self._record.client).status or 0
        refused = self._state.get("refused_by") == layer
        if layer is None or not (refused or (status >= _ERROR and layer in self._record.names)):
            return None
        names = LAYERS[layer].settings if layer in LAYERS else ()
        held = [it for row in self._holds if row["layer"] == layer and (it := self._held(row)).own]
        replaced = {setting.name.upper() for setting in held}
        others = [self._setting(name) for name in names if name not in replaced]
        return Refusal(layer=layer, settings=[*held, *others])

    def _setting(self, name: str) -> Setting:
        value = self._masker.setting(getattr(self._settings, name.lower()))
        given = name.lower() in self._settings.model_fields_set
        name = self._settings.renamed(name)
        return Setting(name=name, value=value, source=name if given else "default")

    def _held(self, row: dict[str, Any]) -> Setting:
        value = self._masker.setting(row["value"])
        return Setting(name=row["name"], value=value, source=row["from"])

    def _route(self) -> Route | None:
        if self._context is None:
            return None
        endpoint = self._context.endpoint or self._context.original_route
        code = getattr(endpoint, "__code__", None)
        name = getattr(endpoint, "__qualname__", type(endpoint).__qualname__)
        entries = entries_for(self._path, self._request.get("method", HANDSHAKE))
        return Route(
            path=template_of(self._context),
            endpoint=f"{endpoint.__module__}.{name}",
            where=f"{short(code.co_filename)}:{code.co_firstlineno}" if code else "",
            settings=[
                (self._settings.renamed(field.upper()), self._masker.setting(value))
                for field, value in sorted(self._settings)
                if any(it in (value if isinstance(value, _LISTS) else (value,)) for it in entries)
            ],
            policy=[self._held(row) for row in self._holds],
            mounted=[
                place
                for place, app, *_ in mounted_for(self._request, self._context)
                if policies_of(app)
            ],
        )

    def _response(self) -> Received:
        passage = self._record.client
        outcome = _outcome(passage)
        is_head = self._record.request.method == "HEAD"
        headers = self._pairs(passage.head["headers"]) if passage.head else []
        body = passage.body.decode("utf-8", "replace")
        hidden = is_head or "content-encoding" in dict(headers)
        return Received(
            status=outcome.status,
            phrase=phrase(outcome.status) if outcome.status else "",
            headers=headers,
            body="" if hidden else self._masker.text(body),
            size=0 if is_head else len(passage.body),
            chunks=passage.chunks,
            close_code=outcome.close_code,
        )

    def _browser(self) -> str | None:
        if self._place is None or self._responder is None or self._record.request.websocket:
            return None
        names = self._record.names
        has_cors = "cors" in names and "cors" in LAYERS
        settings = LAYERS["cors"].settings if has_cors else ()
        listed = [name for name in settings if name.startswith("CORS_ALLOW_ORIGIN")]
        return browser_sees(
            self._record.client,
            scheme=self._request["scheme"],
            responder=self._responder,
            is_outside=has_cors and self._place < self._components.index("cors"),
            cors={it.name: it.value for it in map(self._setting, listed)},
        )


class _Nothing:
    """Marks a missing value, since None is a value."""


def _outcome(passage: Passage | None) -> Outcome:
    if passage is None:
        return Outcome()
    head = passage.head or {"type": ""}
    status, close_code = head.get("status"), None
    if head["type"] == "websocket.accept":
        status = HTTP_101_SWITCHING_PROTOCOLS
    elif head["type"] == "websocket.close":
        # A server denies such a handshake so.
        status, close_code = HTTP_403_FORBIDDEN, head.get("code", 1000)
    if passage.closed is not None:
        close_code = passage.closed.get("code")
    error = None if passage.error is None else type(passage.error).__name__
    return Outcome(status=status, close_code=close_code, error=error)


def _compared(before: dict[str, str], after: dict[str, str]) -> Iterator[Change]:
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            yield Change(name=name, before=before.get(name), after=after.get(name))


def _decoded(headers: Headers) -> Pairs:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


def _joined(headers: Headers, masker: Masker | None = None) -> dict[str, str]:
    """Return the headers by name, the values of a repeated one with commas."""
    joined: dict[str, str] = {}
    for name, raw in _decoded(headers):
        value = masker.text(masker.header(name, raw)) if masker else raw
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _problem(passage: Passage) -> dict[str, Any]:
    try:
        problem = json.loads(passage.body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
