"""Error handler: an exception becomes a problem answer that the outer layers still decorate."""

import logging
from asyncio import CancelledError
from typing import Any, Final

from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from opentelemetry.trace import get_current_span
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from .core.exchange import Exchange
from .core.layer import Layer
from .problem import phrase, problem_response

_logger: Final = logging.getLogger(__name__)

_DETAIL_OF_500: Final = "The service failed to respond. The error is on its side and was logged."
_DETAIL_OF_503: Final = "The service stopped before it could respond. Send the request again."
_WITHOUT_BODY: Final = frozenset({204, 205, 304})
_WS_POLICY_VIOLATION: Final = 1008
_WS_INTERNAL_ERROR: Final = 1011
_WS_SERVICE_RESTART: Final = 1012


class ErrorHandlerMiddleware(Layer):
    """
    Answer 500 in the one shape of `problem.py` where a request raises.

    Starlette's handler of last resort stands outside of every layer, so its 500 has no CORS
    headers, no request id and no security headers; this one stands inside of them. The
    exception is logged once, with its traceback, and recorded on the current span; its message
    never reaches the client. Once a response has started nothing can be answered any more: the
    exception is raised again, and the server logs it and cuts the connection. With `debug` on
    every exception is raised again, for Starlette's traceback page. A websocket is closed with
    1011, its handshake answered 500. A client that went away is no error. A request that is
    cancelled, as by a server that stops, is answered 503 unless its response has started.
    """

    async def enter(self, exchange: Exchange) -> None:
        place = exchange.here()
        try:
            await exchange.proceed()
        except (ClientDisconnect, WebSocketDisconnect):
            _logger.debug("the client went away")
        except CancelledError:
            # So a server ends what outlasts its grace; it would answer with a bare 500 itself.
            if not place.started:
                headers = {"Retry-After": "1"}
                response = problem_response(exchange.scope, 503, _DETAIL_OF_503, headers=headers)
                await place.respond(response, close_code=_WS_SERVICE_RESTART)
            raise
        except HTTPException as exc:
            if place.started:
                raise
            await place.respond(_http_problem(exchange.scope, exc))
        except Exception as exc:
            get_current_span().record_exception(exc)
            app = exchange.scope.get("app")
            if getattr(app, "debug", False) or (place.started and not exchange.accepted):
                raise
            _logger.exception("unhandled exception")
            if exchange.accepted:
                await exchange.send({"type": "websocket.close", "code": _WS_INTERNAL_ERROR})
            else:
                response = problem_response(exchange.scope, 500, _DETAIL_OF_500)
                await place.respond(response, close_code=_WS_INTERNAL_ERROR)


def exception_handlers() -> dict[Any, Any]:
    """Return the handlers for what routes and dependencies raise, in the one shape."""
    return {
        HTTPException: _http_handler,
        RequestValidationError: _validation_handler,
        WebSocketRequestValidationError: _websocket_validation_handler,
    }


async def _http_handler(request: Request, exc: HTTPException) -> Response:
    if isinstance(exc.__cause__, ClientDisconnect):
        raise exc.__cause__  # FastAPI takes a body that was cut off for a wrong one: 400
    return _http_problem(request.scope, exc)


async def _validation_handler(request: Request, exc: RequestValidationError) -> Response:
    # Neither `input` nor `ctx` is shown: they echo what the client sent, secrets included.
    errors = [{key: error[key] for key in ("loc", "msg", "type")} for error in exc.errors()]
    detail = "The request does not match what this operation takes; see `errors`."
    return problem_response(
        request.scope, 422, detail, members={"errors": jsonable_encoder(errors)}
    )


async def _websocket_validation_handler(
    websocket: WebSocket, _: WebSocketRequestValidationError
) -> None:
    await websocket.close(_WS_POLICY_VIOLATION, "The handshake does not match what is taken here.")


def _http_problem(scope: Scope, exc: HTTPException) -> Response:
    if exc.status_code in _WITHOUT_BODY:
        return Response(status_code=exc.status_code, headers=exc.headers)
    detail, members = _described(exc.detail)
    detail = detail or phrase(exc.status_code)
    return problem_response(scope, exc.status_code, detail, headers=exc.headers, members=members)


def _described(value: object) -> tuple[str, dict[str, Any]]:
    """
    Return the text and the further members for what `HTTPException` got as its `detail`.

    FastAPI allows any value there. RFC 9457 has only text: a mapping becomes members, and what
    is neither becomes the member `details`.
    """
    try:
        encoded = jsonable_encoder(value)
    except (TypeError, ValueError):
        encoded = str(value)
    if isinstance(encoded, dict):
        detail, members = _described(encoded.pop("detail", None))
        return detail, {**members, **encoded}
    if encoded is None or isinstance(encoded, str):
        return encoded or "", {}
    return "", {"details": encoded}
