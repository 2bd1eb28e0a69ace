"""Maintenance: turns requests away while a file exists."""

from collections.abc import Awaitable, Collection
from os.path import isfile
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator
from starlette.types import ASGIApp, Receive, Scope, Send

from .core.probes import is_probe
from .problem import refuse

_TRY_AGAIN_LATER: Final = 1013


class MaintenanceMiddleware:
    """
    Answer 503 with Retry-After, in seconds, while `file` exists.

    No restart is needed, and each worker sees the file at its next request: it is looked up
    for each one, which costs a microsecond on a local disk (a network file system may hold
    every request up). A folder of that name counts for nothing. `probe_paths` are served, or an
    orchestrator would restart what is only being maintained. A websocket handshake is refused
    alike, with 1013 where the server can't send a response; open ones live on.
    """

    def __init__(
        self, app: ASGIApp, *, file: str, retry_after: int, probe_paths: Collection[str]
    ) -> None:
        self.app = app
        self.file = str(Path(file).absolute())
        self.headers = {"Retry-After": str(retry_after)}
        self.probe_paths = frozenset(probe_paths)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan" or not self._in_force() or is_probe(scope, self.probe_paths):
            return self.app(scope, receive, send)
        return refuse(
            scope,
            receive,
            send,
            layer="maintenance",
            status=503,
            detail="The service is down for maintenance. Please try again later.",
            headers=self.headers,
            close_code=_TRY_AGAIN_LATER,
        )

    def _in_force(self) -> bool:
        return isfile(self.file)  # noqa: PTH113 - a Path's may raise where it may not look


def _file(value: str) -> str:
    if not value:
        msg = "must be the path of a file, not ''"
        raise ValueError(msg)
    return value


FilePath = Annotated[str, AfterValidator(_file)]
