"""
The twelve concerns as tutorials teach them: a function under `@app.middleware("http")` for each.

CORS and compression are Starlette's, as in the tutorials. The order is the right one, which
no tutorial has: the last one added is the outermost.
"""

import logging
import sys
import time
import uuid
from collections import defaultdict

import jwt
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from ..workload import AUDIENCE, HOST, ISSUER, KEY, ORIGIN

_MAX_BYTES = 100_000_000
_SECONDS = {"second": 1, "hour": 3600}

logger = logging.getLogger("tutorial")


def make_app(*, limit: str) -> FastAPI:
    """Return the app, which allows `limit` requests from an address."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    app = FastAPI()
    _add_decisions(app, limit=limit)
    app.add_middleware(GZipMiddleware, minimum_size=500)
    _add_errors_and_host(app)
    app.add_middleware(
        CORSMiddleware, allow_origins=[ORIGIN], allow_methods=["*"], allow_headers=["*"]
    )
    _add_decorations(app)
    return app


def _add_decisions(app: FastAPI, *, limit: str) -> None:
    number, _, period = limit.partition("/")
    hits: defaultdict[tuple[str, int], int] = defaultdict(int)

    @app.middleware("http")
    async def authenticate(request: Request, call_next: RequestResponseEndpoint) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme == "Bearer":
            try:
                request.state.user = jwt.decode(
                    token, KEY, algorithms=["HS256"], audience=AUDIENCE, issuer=ISSUER
                )
            except jwt.InvalidTokenError:
                return JSONResponse({"detail": "Invalid token"}, 401)
        return await call_next(request)

    @app.middleware("http")
    async def limit_body(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if int(request.headers.get("content-length", 0)) > _MAX_BYTES:
            return JSONResponse({"detail": "Request too large"}, 413)
        return await call_next(request)

    @app.middleware("http")
    async def limit_rate(request: Request, call_next: RequestResponseEndpoint) -> Response:
        client = request.client.host if request.client else ""
        window = client, int(time.time() / _SECONDS[period])
        hits[window] += 1
        if hits[window] > int(number):
            return JSONResponse({"detail": "Too many requests"}, 429)
        return await call_next(request)


def _add_errors_and_host(app: FastAPI) -> None:
    @app.middleware("http")
    async def check_host(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.headers.get("host", "").partition(":")[0] != HOST:
            return JSONResponse({"detail": "Invalid host"}, 400)
        return await call_next(request)

    @app.middleware("http")
    async def catch_errors(request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            return await call_next(request)
        except Exception:
            logger.exception("unhandled")
            return JSONResponse({"detail": "Internal server error"}, 500)


def _add_decorations(app: FastAPI) -> None:
    registry = CollectorRegistry()
    requests = Counter("requests", "Requests", ("method", "path", "status"), registry=registry)
    seconds = Histogram("seconds", "Seconds", ("method", "path"), registry=registry)

    @app.middleware("http")
    async def add_security_headers(
        request: Request, call_next: RequestResponseEndpoint
    ) -> Response:
        response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Content-Security-Policy"] = "default-src 'none'"
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
        return response

    @app.middleware("http")
    async def add_process_time(request: Request, call_next: RequestResponseEndpoint) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        response.headers["X-Process-Time"] = str(time.perf_counter() - start)
        return response

    @app.middleware("http")
    async def count(request: Request, call_next: RequestResponseEndpoint) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        route = request.scope.get("route")
        path = route.path if route else "unmatched"
        requests.labels(request.method, path, response.status_code).inc()
        seconds.labels(request.method, path).observe(time.perf_counter() - start)
        return response

    @app.middleware("http")
    async def log(request: Request, call_next: RequestResponseEndpoint) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        logger.info(
            "%s %s %s %s %.3f",
            request.state.request_id,
            request.method,
            request.url.path,
            response.status_code,
            time.perf_counter() - start,
        )
        return response

    @app.middleware("http")
    async def add_request_id(request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.request_id = request.headers.get("x-request-id") or str(uuid.uuid4())
        response = await call_next(request)
        response.headers["X-Request-ID"] = request.state.request_id
        return response
