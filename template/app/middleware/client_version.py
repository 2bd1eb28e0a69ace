"""Client version: answers 410 to a client whose version is no longer supported."""

from collections.abc import Awaitable, Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from .core.probes import is_probe
from .problem import refuse


class ClientVersionMiddleware:
    """
    Refuse a client whose User-Agent starts with one of `blocked_clients`.

    The answer says `detail`, which should tell people how to upgrade. A client without a
    User-Agent passes, as do `probe_paths`. Websocket handshakes are checked alike. This is a
    courtesy to old clients and no protection: a User-Agent is whatever a client says.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        blocked_clients: Collection[str],
        detail: str,
        probe_paths: Collection[str],
    ) -> None:
        self.app = app
        self.prefixes = tuple(prefix.encode("latin-1") for prefix in blocked_clients)
        self.detail = detail
        self.probe_paths = frozenset(probe_paths)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if (
            scope["type"] == "lifespan"
            or not self._blocks(scope)
            or is_probe(scope, self.probe_paths)
        ):
            return self.app(scope, receive, send)
        return refuse(scope, receive, send, layer="client_version", status=410, detail=self.detail)

    def _blocks(self, scope: Scope) -> bool:
        return any(
            value.startswith(self.prefixes)
            for name, value in scope["headers"]
            if name == b"user-agent"
        )
