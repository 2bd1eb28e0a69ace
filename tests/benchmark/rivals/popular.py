"""
The twelve concerns from the libraries that are installed most, each used as its pages show.

asgi-correlation-id, Starlette (CORS, GZip, trusted hosts), slowapi, prometheus-fastapi-instrumentator,
secure, PyJWT in a dependency, structlog over the standard library's logging, FastAPI's body
limit. The order is the right one: the last one added is the outermost.
"""

import logging
import sys
import time
from typing import Annotated, Any

import jwt
import structlog
from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator
from secure.middleware import SecureASGIMiddleware
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware
from slowapi.util import get_remote_address
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..workload import AUDIENCE, HOST, ISSUER, KEY, ORIGIN

_bearer = HTTPBearer(auto_error=False)


async def authenticate(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Leave the claims of a good token on the request; refuse a bad one."""
    if credentials is None:
        return
    try:
        request.state.user = jwt.decode(
            credentials.credentials, KEY, algorithms=["HS256"], audience=AUDIENCE, issuer=ISSUER
        )
    except jwt.InvalidTokenError as exc:
        raise HTTPException(401, "Invalid token", {"WWW-Authenticate": "Bearer"}) from exc


async def answer_error(_: Request, __: Exception) -> JSONResponse:
    """Answer what nothing else handled."""
    return JSONResponse({"detail": "Internal server error"}, 500)


def make_app(*, limit: str) -> FastAPI:
    """Return the app, which allows `limit` requests from an address."""
    _configure_logging()
    handlers: dict[Any, Any] = {
        Exception: answer_error,
        RateLimitExceeded: _rate_limit_exceeded_handler,
    }
    app = FastAPI(
        dependencies=[Depends(authenticate)],
        exception_handlers=handlers,
        max_body_size=100_000_000,
    )
    app.state.limiter = Limiter(key_func=get_remote_address, default_limits=[limit])
    app.add_middleware(SlowAPIMiddleware)
    app.add_middleware(GZipMiddleware, minimum_size=500)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST])
    app.add_middleware(
        CORSMiddleware, allow_origins=[ORIGIN], allow_methods=["*"], allow_headers=["*"]
    )
    app.add_middleware(SecureASGIMiddleware)
    app.middleware("http")(_log)
    Instrumentator(registry=CollectorRegistry()).instrument(app)
    app.add_middleware(CorrelationIdMiddleware)
    return app


async def _log(request: Request, call_next: RequestResponseEndpoint) -> Response:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=correlation_id.get())
    start = time.perf_counter_ns()
    response = await call_next(request)
    nanoseconds = time.perf_counter_ns() - start
    structlog.stdlib.get_logger("api.access").info(
        "request",
        method=request.method,
        url=str(request.url),
        status_code=response.status_code,
        client=request.client.host if request.client else None,
        duration=nanoseconds,
    )
    response.headers["X-Process-Time"] = str(nanoseconds / 10**9)
    return response


def _configure_logging() -> None:
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
