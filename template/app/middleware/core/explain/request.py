"""The request that is explained, as a server would hand it to the app."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from starlette.types import Message, Scope

# Whatever a request line may hold as it is.
_SAFE: Final = "/%:=@!$&'()*+,;~-._"

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request, or with `websocket` the handshake of one; `target` is its path and query."""

    method: str
    target: str
    headers: RawHeaders
    typed: frozenset[str]
    body: bytes
    client: str
    scheme: str
    websocket: bool

    @property
    def url(self) -> str:
        host = dict(self.headers).get(b"host", b"").decode("latin-1")
        return f"{self.scheme}://{host}{self.target}"

    def scope(self, state: dict[str, Any]) -> Scope:
        """Return the scope of ASGI, with the `state` of the lifespan."""
        path, _, query = self.target.partition("?")
        raw_path = quote(path, safe=_SAFE).encode("ascii")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": ("127.0.0.1", 8000),
            "client": (self.client, 50000),
            "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
            "raw_path": raw_path,
            "root_path": "",
            "query_string": quote(query, safe=_SAFE + "?[]").encode("ascii"),
            "headers": list(self.headers),
            "state": dict(state),
        }
        if not self.websocket:
            return {**scope, "method": self.method}
        offered = dict(self.headers).get(b"sec-websocket-protocol", b"").decode("latin-1")
        return {
            **scope,
            "type": "websocket",
            "subprotocols": [item.strip() for item in offered.split(",") if item.strip()],
            "extensions": {"websocket.http.response": {}},
        }

    def first_message(self) -> Message:
        """Return what the app receives first."""
        if self.websocket:
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": self.body, "more_body": False}
