"""Client version: answers 410 to a client whose version is no longer supported."""

from collections.abc import Collection

from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import NOTHING, Layer
from .problem import Refusal


class ClientVersionMiddleware(Layer):
    """
    Refuse a client whose User-Agent starts with one of `blocked_clients`, in any case.

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
        super().__init__(app, exempt_paths=probe_paths)
        self.prefixes = tuple(prefix.lower().encode("latin-1") for prefix in blocked_clients)
        self.refusal = Refusal(status=410, detail=detail)
        if not blocked_clients:
            self.scopes = NOTHING

    def enter(self, exchange: Exchange) -> Refusal | None:
        agents = exchange.lines(b"user-agent")
        blocks = any(agent.lower().startswith(self.prefixes) for agent in agents)
        return self.refusal if blocks else None
