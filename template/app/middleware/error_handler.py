"""Error handler: turns every exception into one JSON error format."""

from asyncio import CancelledError, current_task
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from opentelemetry.trace import get_current_span
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope
from starlette.websockets import WebSocket

from .core.exchange import Exchange, Place, is_inside_layers
from .core.layer import Layer
from .core.logger import layer_logger
from .problem import as_json, phrase, problem_response

_logger: Final = layer_logger(__name__)

_DETAIL_OF_500: Final = "The service failed to respond. The error is on its side and was logged."
_DETAIL_OF_503: Final = "The service stopped before it could respond. Send the request again."
# What an error has that lacks one of these; the type is that of pydantic for an own check.
_INPUT_ERROR: Final = {"loc": (), "msg": "", "type": "value_error"}
_WITHOUT_BODY: Final = frozenset({204, 205, 304})
_WS_POLICY_VIOLATION: Final = 1008
_WS_INTERNAL_ERROR: Final = 1011
_WS_SERVICE_RESTART: Final = 1012


class ErrorHandlerMiddleware(Layer):
    """
    Respond with 500, in the format of `problem.py`, when a request raises an exception.

    Starlette's ServerErrorMiddleware runs outside every layer, so its 500 has none of the headers
    that layers add. This layer runs inside those that add them. It logs the exception once, with
    its traceback, and records it on the current span; clients never see its message. It raises the
    exception again if the response has started, so that the server closes the connection, and in
    `debug` mode, for Starlette's page with the traceback. It closes a websocket with 1011, after an
    HTTPException too, and responds to its handshake with 500. A client that disconnected is no
    error. A request that is cancelled by a stopping server gets 503.
    """

    def faults(self, service: Any) -> Iterable[str]:
        # Starlette gives these two to its layer outside the list, where none of their errors comes.
        for key, name in ((Exception, "Exception"), (500, "500")):
            if service.exception_handlers.get(key, _unhandled_handler) is not _unhandled_handler:
                yield (
                    f"The exception handler of {name} never runs, because error_handler responds"
                    " first; register it for exception classes of your own, or remove it."
                )

    async def around(self, exchange: Exchange, place: Place) -> None:
        exchange.if_cancelled = _unavailable, place.depth
        try:
            await place.proceed()
        except (Exception, CancelledError) as exc:
            if isinstance(exc, HTTPException) and not place.started:
                await place.respond(_http_problem(exchange.scope, exc))
                return
            if exchange.is_abandoned(exc):
                _logger.debug("the client went away")
                return
            if _ends_the_request(exc):
                await _unavailable(exchange, place)
                raise
            with suppress(Exception):  # its text can be an error itself
                get_current_span().record_exception(exc)
            if getattr(exchange.app, "debug", False) or (place.started and not place.is_open):
                raise
            _logger.exception("unhandled exception")
            if place.is_open:
                await place.send({"type": "websocket.close", "code": _WS_INTERNAL_ERROR})
            else:
                response = problem_response(exchange.scope, 500, _DETAIL_OF_500)
                await place.respond(response, close_code=_WS_INTERNAL_ERROR)


async def _unavailable(exchange: Exchange, place: Place) -> None:
    """Respond to a request that was cancelled, unless somebody did."""
    # A stopping server cancels late requests, and would respond with a plain 500. Some servers
    # cancel those whose client has left, too.
    if place.started or await exchange.has_left() or place.started:  # meanwhile
        return
    headers = {"Retry-After": "1"}
    response = problem_response(exchange.scope, 503, _DETAIL_OF_503, headers=headers)
    await place.respond(response, close_code=_WS_SERVICE_RESTART)


def _ends_the_request(exc: BaseException) -> bool:
    """Return whether this request was cancelled, rather than a task that it waited for."""
    task = current_task()
    return isinstance(exc, CancelledError) and task is not None and task.cancelling() > 0


def exception_handlers() -> dict[Any, Any]:
    """Return the handlers for exceptions of routes and dependencies, in the same format."""
    return {
        HTTPException: _http_handler,
        RequestValidationError: _validation_handler,
        WebSocketRequestValidationError: _websocket_validation_handler,
        Exception: _unhandled_handler,
    }


async def _http_handler(request: Request, exc: HTTPException) -> Response:
    if isinstance(exc.__cause__, ClientDisconnect):
        raise exc.__cause__  # FastAPI would respond to an incomplete body with 400
    return _http_problem(request.scope, exc)


async def _unhandled_handler(request: Request, exc: Exception) -> Response:
    """Leave what a mounted app raises to the layers around it, or respond as Starlette does."""
    if is_inside_layers(request.scope):
        raise exc
    return PlainTextResponse("Internal Server Error", status_code=500)


async def _validation_handler(request: Request, exc: RequestValidationError) -> Response:
    found: Any = exc.errors()
    listed = found if isinstance(found, (list, tuple)) else [found]
    detail = "The request is invalid; see `errors`."
    members = {"errors": [*map(_input_error, listed)]}
    return problem_response(request.scope, 422, detail, members=members)


def _input_error(error: object) -> dict[str, Any]:
    """Return an error in the form of `InputError`; one that the app raised can have any."""
    known = error if isinstance(error, Mapping) else {"msg": str(as_json(error))}
    # Without `input` and `ctx`: both repeat what the client sent, secrets included.
    return {key: known.get(key, default) for key, default in _INPUT_ERROR.items()}


async def _websocket_validation_handler(
    websocket: WebSocket, _: WebSocketRequestValidationError
) -> None:
    await websocket.close(_WS_POLICY_VIOLATION, "The handshake is invalid.")


def _http_problem(scope: Scope, exc: HTTPException) -> Response:
    if exc.status_code in _WITHOUT_BODY:
        return Response(status_code=exc.status_code, headers=exc.headers)
    detail, members = _described(exc.detail)
    detail = detail or phrase(exc.status_code)
    return problem_response(scope, exc.status_code, detail, headers=exc.headers, members=members)


def _described(value: object) -> tuple[str, dict[str, Any]]:
    """
    Return the text and the extra members for the `detail` of an `HTTPException`.

    FastAPI allows any value, RFC 9457 only text: a mapping becomes members, and any other value
    becomes the member `details`.
    """
    encoded = as_json(value)
    if isinstance(encoded, dict):
        detail, members = _described(encoded.pop("detail", None))
        return detail, {**members, **encoded}
    if encoded is None or isinstance(encoded, str):
        return encoded or "", {}
    return "", {"details": encoded}
