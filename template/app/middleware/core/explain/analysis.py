"""The analysis: from what was recorded to the facts of each layer."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from starlette.types import Scope

from app.middleware.core.check import broken_rules
from app.middleware.core.scope import route_template
from app.middleware.order import LAYERS, Rule

from .browser import browser_sees
from .facts import (
    Change,
    Explanation,
    Outcome,
    Pairs,
    Received,
    Refusal,
    Route,
    Sent,
    Step,
)
from .fault import find_fault, short
from .masking import Masker, shown
from .recorder import Passage
from .request import RawHeaders
from .run import Record

# What stands around the layers; the picture of docs/middleware.md calls them so too.
OUTER: Final = "outer"
EXCEPTIONS: Final = "exceptions"
ROUTES: Final = "routes"

_SWITCHING_PROTOCOLS: Final = 101
_FORBIDDEN: Final = 403
_ERROR: Final = 400
_PARTS: Final = ("client", "scheme", "method", "path", "root_path", "query_string", "http_version")
_ELSEWHERE: Final = frozenset({*_PARTS, "app", "headers", "state", "type"})
_LONGEST: Final = 100


def explain(record: Record, settings: BaseModel | None, masker: Masker) -> Explanation:
    """Return what each layer did in this run."""
    return _Analysis(record, settings, masker).explanation()


class _Analysis:
    """
    Compares the places of a run with each other.

    Component `n` stands between the places `n` and `n + 1`; the last, the routes, has only an
    outside.
    """

    def __init__(self, record: Record, settings: BaseModel | None, masker: Masker) -> None:
        self._record = record
        self._settings = settings
        self._masker = masker
        self._components = [OUTER, *record.names, EXCEPTIONS, ROUTES]
        self._innermost = record.passages[max(record.passages)]
        # What the layers noted, refusals too, stands in the one state that they share.
        self._state: dict[str, Any] = self._innermost.scope.get("state") or {}
        self._responder = self._find_responder()

    def explanation(self) -> Explanation:
        request = self._record.request
        mask = self._masker
        reached = [place in self._record.passages for place in range(len(self._components))]
        broken = broken_rules(self._record.names)
        return Explanation(
            request=Sent(
                method="WEBSOCKET" if request.websocket else request.method,
                url=mask.text(request.url),
                client=request.client,
                headers=self._pairs(request.headers),
                typed=sorted(request.typed),
                size=len(request.body),
            ),
            broken_rules=[
                f"{rule.outside} must run outside {rule.inside}: {rule.because}"
                for rule in sorted(broken, key=self._is_elsewhere)
            ],
            steps=[self._step(place) for place in range(len(self._components))],
            responded_by=None if self._responder is None else self._components[self._responder],
            says=self._says(),
            refusal=self._refusal(),
            fault=find_fault(self._record.passages, self._components, self._responder, mask),
            never_reached=[
                name for name, was in zip(self._components, reached, strict=True) if not was
            ],
            route=self._route(),
            browser=self._browser(),
            response=self._response(),
            cut_off=self._record.cut_off,
        )

    def _is_elsewhere(self, rule: Rule) -> bool:
        """Sort the rules about the layer that responded to the front."""
        responder = self._components[self._responder or 0]
        return responder not in {rule.outside, rule.inside}

    # The layers

    def _step(self, place: int) -> Step:
        name = self._components[place]
        step = Step(name=name, ours=name in LAYERS)
        passage = self._record.passages.get(place)
        if passage is None:
            return step
        inside = self._record.passages.get(place + 1)
        is_layer = 0 < place < len(self._components) - 2
        return step.model_copy(
            update={
                "reached": True,
                "arrived": list(self._arrived(passage.request)),
                "request": list(self._changes(passage, inside)) if is_layer and inside else [],
                "read": self._read(name, passage.request),
                "from_inside": _outcome(inside),
                "to_outside": _outcome(passage),
                "responded": place == self._responder,
                "headers": self._header_changes(place, passage, inside),
                "bytes_in": passage.received,
                "bytes_out": len(passage.body),
                "bytes_from_inside": 0 if inside is None else len(inside.body),
                "seconds": max(0.0, passage.seconds - (inside.seconds if inside else 0.0)),
            }
        )

    def _arrived(self, request: Scope) -> Iterator[tuple[str, str]]:
        for part in _PARTS:
            if part in request:
                yield part, self._masker.text(_part(part, request[part]))
        for key, value in (request.get("state") or {}).items():
            yield f"state.{key}", _cut(self._masker.value(key, value))

    def _changes(self, outside: Passage, inside: Passage) -> Iterator[Change]:
        before, after = outside.request, inside.request
        for part in _PARTS:
            if before.get(part) != after.get(part):
                yield Change(
                    name=part,
                    before=self._masker.text(_part(part, before.get(part))),
                    after=self._masker.text(_part(part, after.get(part))),
                )
        state, known = after.get("state") or {}, before.get("state") or {}
        for prefix, theirs, ours in (("state.", known, state), ("", before, after)):
            for key, value in ours.items():
                if not (prefix == "" and key in _ELSEWHERE) and (
                    key not in theirs or theirs[key] != value
                ):
                    old = self._masker.value(key, theirs[key]) if key in theirs else None
                    yield Change(
                        name=prefix + key, before=old, after=_cut(self._masker.value(key, value))
                    )
        yield from self._compared(before["headers"], after["headers"])

    def _header_changes(self, place: int, outside: Passage, inside: Passage | None) -> list[Change]:
        if outside.head is None:
            return []
        own = place == self._responder or inside is None or inside.head is None
        before = [] if own else inside.head["headers"]  # type: ignore[union-attr, index]
        return list(self._compared(before, outside.head["headers"]))

    def _compared(self, before: RawHeaders, after: RawHeaders) -> Iterator[Change]:
        old, new = _joined(self._pairs(before)), _joined(self._pairs(after))
        raw_old, raw_new = _joined(_decoded(before)), _joined(_decoded(after))
        for name in dict.fromkeys((*raw_old, *raw_new)):
            if raw_old.get(name) != raw_new.get(name):
                yield Change(name=name, before=old.get(name), after=new.get(name))

    def _read(self, name: str, request: Scope) -> Pairs:
        """Return the headers of the request that this layer reads."""
        wanted = set(self._header_names(name))
        return [pair for pair in self._pairs(request["headers"]) if pair[0] in wanted]

    def _header_names(self, layer: str) -> Iterator[str]:
        for item in LAYERS[layer].reads if layer in LAYERS else ():
            if item.startswith("$"):
                value = shown(getattr(self._settings, item[1:].lower(), ""))
                yield from (part.partition(":")[0].strip().lower() for part in value.split(","))
            else:
                yield item.lower()

    # What came of it

    def _find_responder(self) -> int | None:
        """Return the innermost component whose own response reached the client."""
        head, place = self._record.client.head, 0
        if head is None:
            return None
        while (inside := self._record.passages.get(place + 1)) and inside.head:
            # A response that passes was sent inside before it is sent outside.
            if inside.moment > self._record.passages[place].moment:
                break
            place += 1
        return place

    def _refusal(self) -> Refusal | None:
        if self._responder is None:
            return None
        layer = self._components[self._responder]
        status = _outcome(self._record.client).status or 0
        refused = self._state.get("refused_by") == layer
        if not refused and (status < _ERROR or layer not in self._record.names):
            return None
        return Refusal(layer=layer, settings=self._decided_by(layer))

    def _says(self) -> str | None:
        detail = _problem(self._record.client).get("detail", self._state.get("refused_because"))
        return None if detail is None else self._masker.text(str(detail))

    def _decided_by(self, layer: str) -> Pairs:
        names = LAYERS[layer].settings if layer in LAYERS else ()
        return [(name, self._setting(name)) for name in names]

    def _setting(self, name: str) -> str:
        value = getattr(self._settings, name.lower(), None) if self._settings else "unknown"
        return self._masker.text(shown(value))

    def _route(self) -> Route | None:
        scope = self._innermost.scope
        endpoint = scope.get("endpoint")
        template = route_template(scope)
        if endpoint is None or template is None:
            return None
        code = getattr(endpoint, "__code__", None)
        names = sorted(type(self._settings).model_fields) if self._settings else ()
        return Route(
            path=template,
            endpoint=f"{endpoint.__module__}.{getattr(endpoint, '__qualname__', endpoint)}",
            where=f"{short(code.co_filename)}:{code.co_firstlineno}" if code else "",
            settings=[
                (name.upper(), self._setting(name))
                for name in names
                if _lists(getattr(self._settings, name), scope["path"])
            ],
        )

    def _response(self) -> Received:
        passage = self._record.client
        outcome = _outcome(passage)
        is_head = self._record.request.method == "HEAD"
        headers = passage.head["headers"] if passage.head else []
        body = passage.body.decode("utf-8", "replace")
        encoded = any(name == b"content-encoding" for name, _ in headers)
        return Received(
            status=outcome.status,
            phrase=_phrase(outcome.status, passage),
            headers=self._pairs(headers),
            body="" if is_head or encoded else self._masker.text(body),
            size=0 if is_head else len(passage.body),
            chunks=passage.chunks,
            close_code=outcome.close_code,
        )

    def _browser(self) -> str | None:
        if self._responder is None or self._record.request.websocket:
            return None
        has_cors = "cors" in self._record.names
        settings = LAYERS["cors"].settings if has_cors and "cors" in LAYERS else ()
        return browser_sees(
            self._record.client,
            scheme=self._innermost.scope["scheme"],
            responder=self._components[self._responder],
            is_outside=has_cors and self._responder < self._components.index("cors"),
            cors={
                name: self._setting(name)
                for name in settings
                if name.startswith("CORS_ALLOW_ORIGIN")
            },
        )

    def _pairs(self, headers: RawHeaders) -> Pairs:
        mask = self._masker
        return [(name, mask.text(mask.header(name, value))) for name, value in _decoded(headers)]


def _outcome(passage: Passage | None) -> Outcome:
    if passage is None:
        return Outcome()
    status = close_code = None
    head = passage.head or {"type": ""}
    if head["type"] == "websocket.accept":
        status = _SWITCHING_PROTOCOLS
    elif head["type"] == "websocket.close":
        # A server denies such a handshake so.
        status, close_code = _FORBIDDEN, head.get("code", 1000)
    else:
        status = head.get("status")
    if passage.closed is not None:
        close_code = passage.closed.get("code")
    error = None if passage.error is None else type(passage.error).__name__
    return Outcome(status=status, close_code=close_code, error=error)


def _phrase(status: int | None, passage: Passage) -> str:
    """Return the phrase of a status: the title of the response, else the one that Python knows."""
    problem = _problem(passage)
    if problem.get("type") == "about:blank" and isinstance(problem.get("title"), str):
        title: str = problem["title"]
        return title
    try:
        return HTTPStatus(status or 0).phrase
    except ValueError:
        return ""


def _decoded(headers: RawHeaders) -> Pairs:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


def _joined(pairs: Pairs) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _part(name: str, value: Any) -> str:
    if name == "client":
        return value[0] if value else "unknown"
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _problem(passage: Passage) -> dict[str, Any]:
    try:
        problem = json.loads(passage.body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _lists(value: Any, path: str) -> bool:
    return value == path or (isinstance(value, (tuple, list, frozenset)) and path in value)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
