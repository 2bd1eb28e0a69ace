"""Client version: returns 410 to outdated clients."""

from collections.abc import Collection

from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import NOTHING, Layer
from .problem import Refusal


class ClientVersionMiddleware(Layer):
    """
    Return 410 to clients whose User-Agent starts with one of `blocked_clients`, in any case.

    The response contains `detail`, which should explain how to upgrade. Clients without a
    User-Agent and `probe_paths` pass. Websocket handshakes are checked too. This helps users of
    old clients and isn't security: a client can send any User-Agent.
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
