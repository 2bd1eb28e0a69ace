"""Problem: the format of errors, `application/problem+json` (RFC 9457)."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel
from starlette.responses import Response
from starlette.status import HTTP_500_INTERNAL_SERVER_ERROR
from starlette.types import Receive, Scope, Send

from .core.scope import can_respond

MEDIA_TYPE: Final = "application/problem+json"

_NEVER_STORED: Final = frozenset({401, 403, 429})
# What an application may choose for its errors (RFC 9457, 4).
_CHOSEN: Final = ("type", "title")
# What says of the response itself what it is.
_OWN: Final = frozenset({"detail", "request_id", "status", "title", "type"})
# Python has the names of RFC 9110 from 3.13 on.
_RENAMED: Final[Mapping[int, str]] = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}


class InputError(BaseModel):
    """What is wrong with one part of a request."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """What a client reads when a request fails."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = None
    layer: str | None = None
    errors: list[InputError] | None = None
    details: Any = None


def problem_response(
    scope: Scope,
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> Response:
    """
    Return an error response with the phrase of `status` as its title.

    An ID of the request, which a layer has stored, goes into the body. 401, 403, 429 and 5xx get
    `Cache-Control: no-store`, unless `headers` has one.

    `members` are added to the body (RFC 9457, 3.2). Of the standard ones, they can replace `type`
    and `title`, with a text; any other value for one that the body has is in `details`.
    """
    given = members or {}
    standard = {"type": "about:blank", "title": phrase(status), "status": status, "detail": detail}
    body = {**standard, **given, **standard}
    body |= {key: given[key] for key in _CHOSEN if isinstance(given.get(key), str)}
    request_id = scope.get("state", {}).get("request_id")
    if request_id is not None:
        body["request_id"] = request_id
    if others := {key: given[key] for key in given if key in _OWN and given[key] != body[key]}:
        body["details"] = {**others, "details": given["details"]} if "details" in given else others
    response = Response(
        # UTF-8 has no lone surrogate, and readers may refuse its escape (RFC 7493, 2.1).
        _text(body).encode(errors="replace"),
        status_code=status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )
    if status in _NEVER_STORED or status >= HTTP_500_INTERNAL_SERVER_ERROR:
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def as_json(value: object) -> Any:
    """Return `value` in types of JSON, or its text where it has no form there."""
    try:
        return jsonable_encoder(value, custom_encoder={BaseException: str})
    except (RecursionError, TypeError, ValueError):
        return str(value)


def _text(body: Mapping[str, Any]) -> str:
    try:
        return _encode(body)
    except ValueError:  # NaN and the infinities, which Python reads and writes, are no JSON
        return _encode(json.loads(json.dumps(body, default=as_json), parse_constant=lambda _: None))


_encode: Final = json.JSONEncoder(
    allow_nan=False, default=as_json, ensure_ascii=False, separators=(",", ":")
).encode


async def respond(
    response: Response, scope: Scope, receive: Receive, send: Send, *, close_code: int = 1008
) -> None:
    """
    Send `response`, to a websocket handshake too.

    A server without the extension `websocket.http.response` can't do that: it gets a close with
    `close_code` (RFC 6455, 7.4.1) instead, and the client sees 403.
    """
    if can_respond(scope):
        await response(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": close_code, "reason": ""})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """
    The response of a layer that rejects a request.

    `detail` is for the client. A websocket handshake is closed with `close_code` if the server
    can't send a response to it (RFC 6455, 7.4.1). `closes` ends an HTTP/1 connection, so that the
    server doesn't read the rest of the body. `members` are added to the problem (RFC 9457, 3.2).
    """

    status: int
    detail: str
    headers: Mapping[str, str] | None = None
    close_code: int = 1008
    closes: bool = False
    members: Mapping[str, Any] | None = None


def refusal_response(scope: Scope, layer: str, refusal: Refusal) -> Response:
    """Return the response for `refusal`, and record in the scope which `layer` rejected and why."""
    record_refusal(scope, layer, refusal.detail)
    members = {**(refusal.members or {}), "layer": layer}
    response = problem_response(
        scope, refusal.status, refusal.detail, headers=refusal.headers, members=members
    )
    # It concerns this client, not the URL, and caches store a 410 by default.
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def record_refusal(scope: Scope, layer: str, reason: str) -> None:
    """Record which `layer` rejected a request and why, for the layers outside."""
    scope.setdefault("state", {}).update(refused_by=layer, refused_because=reason)


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    layer: str,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    close_code: int = 1008,
) -> None:
    """
    Send an error response from a plain ASGI layer.

    `layer` names it in the log, the metrics and the body.
    """
    refusal = Refusal(status=status, detail=detail, headers=headers, close_code=close_code)
    response = refusal_response(scope, layer, refusal)
    await respond(response, scope, receive, send, close_code=close_code)


class _ProblemContent(dict[str, Any]):
    """What FastAPI describes as JSON, described as a problem: it knows no media type of a model."""

    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__({MEDIA_TYPE: {"schema": schema}})

    def setdefault(self, _: str, default: Any = None) -> Any:
        return super().setdefault(MEDIA_TYPE, default)

    def __deepcopy__(self, _: object) -> "_ProblemContent":
        # FastAPI writes the schema where the model is, and so for the other statuses.
        return _ProblemContent(self[MEDIA_TYPE]["schema"])


_CONTENT: Final = _ProblemContent({})


def problem_responses(statuses: Collection[int]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for `statuses`."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": phrase(status), "content": _CONTENT} for status in statuses
    }
    if statuses:
        # One is enough: FastAPI takes 0.1 ms to build each, for each route anew.
        responses[max(statuses)]["model"] = Problem
    return responses


def phrase(status: int) -> str:
    """Return the reason phrase of `status` (RFC 9110, 15)."""
    try:
        return _RENAMED.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return "Error"
