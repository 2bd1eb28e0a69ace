"""JWKS: the keys that an identity provider publishes, kept as long as they are good."""

import asyncio
import json
from collections.abc import Awaitable, Collection, Mapping, Sequence
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

import jwt

from app.middleware.core.logger import layer_logger
from app.middleware.core.threads import Threads
from app.middleware.user import CannotCheckError

from .jwt_keys import Key, PublicKey, algorithms_for, common

if TYPE_CHECKING:
    from socket import socket

_logger: Final = layer_logger(__name__)

_SECONDS_BETWEEN_FETCHES: Final = 10
_FRESH_SECONDS: Final = 300
_OLD_SECONDS: Final = 600
_CONNECT_SECONDS: Final = 3
_FETCH_SECONDS: Final = 5
_MAXIMUM_BYTES: Final = 1_000_000
# Of a token that names none: each try costs the time of a signature.
_MOST_TRIED: Final = 16
_threads: Final = Threads(1)


class PublishedKeys:
    """
    The keys that an identity provider publishes at `url` (RFC 7517).

    They are fetched in a thread: at the first token, every five minutes, and when no key
    verifies a token, since providers change theirs, at times under the old name. A token waits for
    the fetch only where the keys are ten minutes old, as after a time without tokens: one that was
    taken back meanwhile would verify it. A token that names no key (RFC 7515, 4.1.4) is tried with
    those that fit its algorithm. However many tokens ask, one fetch runs at a time, and none within
    ten seconds of another. While the provider is down its old keys stay. A set without a usable key
    takes them back, as one with others does; where no key is known, no token can be checked.
    """

    def __init__(self, url: str, algorithms: Collection[str]) -> None:
        self.version = 0
        self._url = url
        self._algorithms = algorithms
        self._published: list[Any] = []
        self._keys: list[Key] = []
        self._down = True
        self._asked_at = float("-inf")
        self._stale_at = self._old_at = float("inf")
        self._fetching: asyncio.Task[None] | None = None

    def fitting(self, header: Mapping[str, Any]) -> Sequence[Key]:
        kid, alg = header.get("kid"), header.get("alg")
        keys = [key for key in self._keys if alg in key.algorithms]
        # A key that was published without a name may be the named one.
        named = [key for key in keys if key.kid == kid] + [key for key in keys if key.kid is None]
        return (keys if kid is None else named)[:_MOST_TRIED]

    async def renew(self) -> bool:
        version = self.version
        if (fetching := self._refresh()) is not None:
            await _patiently(fetching)
        return self.version != version

    def check_known(self) -> None:
        if self._down:
            msg = "The keys of the identity provider can't be fetched at the moment."
            raise CannotCheckError(msg, retry_after=_SECONDS_BETWEEN_FETCHES)

    def keep_fresh(self) -> Awaitable[object] | None:
        now = monotonic()
        if now < self._stale_at or (fetching := self._refresh()) is None or now < self._old_at:
            return None
        return _patiently(fetching)

    def _refresh(self) -> asyncio.Task[None] | None:
        running = self._fetching
        if running and not running.done() and running.get_loop() is asyncio.get_running_loop():
            return running
        if monotonic() < self._asked_at + _SECONDS_BETWEEN_FETCHES:
            return None
        self._asked_at = monotonic()
        self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            published = json.loads(await _threads.run(_download, self._url))["keys"]
            keys = [key for item in published if (key := _usable(item, self._algorithms))]
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the old keys stay
            self._down = True
            # Or each token of an outage would wait for a fetch that fails.
            self._old_at = monotonic() + _FRESH_SECONDS
            _logger.warning("the keys at %s can't be fetched: %r", self._url, error)
            return
        self._down = not keys
        if not keys:
            found, wanted = len(published), ", ".join(self._algorithms)
            _logger.warning("of the %d keys at %s, none is for %s", found, self._url, wanted)
        self._stale_at = monotonic() + _FRESH_SECONDS
        self._old_at = monotonic() + _OLD_SECONDS
        if published != self._published:
            self._published, self._keys = published, keys
            self.version += 1


async def _patiently(fetching: asyncio.Task[None]) -> None:
    """Wait for a fetch, which goes on for others when this request waits no longer."""
    await asyncio.wait([fetching], timeout=_FETCH_SECONDS)


def _usable(published: Any, allowed: Collection[str]) -> Key | None:
    """Return the published key, None where it is for something else or of an unknown kind."""
    try:
        key = jwt.PyJWK(published).key
        signs = (published.get("use") or "sig") == "sig"
        wanted = signs and "verify" in (published.get("key_ops") or ["verify"])
        if not wanted or not isinstance(key, PublicKey):
            return None
    except Exception:  # noqa: BLE001 - a key that this service can't read must not hide the others
        return None
    named = published.get("alg")
    fitting = algorithms_for(key)
    algorithms = common(allowed, fitting & {named} if named else fitting)
    return Key(key, algorithms, published.get("kid")) if algorithms else None


class _NoRedirects(HTTPRedirectHandler):
    """A redirect could lead to keys of another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _InTime(RawIOBase):
    """What a socket receives until a deadline; its own timeout begins anew with each byte."""

    def __init__(self, sock: "socket", received: Any) -> None:
        self._socket = sock
        self._received = received
        self._deadline = monotonic() + _FETCH_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            msg = f"not complete after {_FETCH_SECONDS} seconds"
            raise TimeoutError(msg)
        self._socket.settimeout(seconds)
        count: int | None = self._received.readinto(buffer)
        return count

    def close(self) -> None:
        self._received.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: "socket", *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = BufferedReader(_InTime(sock, self.fp.detach()))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Connections(HTTPSHandler, HTTPHandler):
    """Open connections whose responses have a deadline: a head, and a body, can drip."""

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_Connection, req)

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, req)


def _download(url: str) -> bytes:
    request = Request(url, headers={"Accept": "application/json", "User-Agent": "jwks"})  # noqa: S310
    try:
        opened = build_opener(_NoRedirects, _Connections).open(request, timeout=_CONNECT_SECONDS)
    except HTTPError as error:
        error.close()
        raise
    with opened as response:
        body = b""
        while chunk := response.read1(_MAXIMUM_BYTES):
            body += chunk
            if len(body) > _MAXIMUM_BYTES:
                msg = f"more than {_MAXIMUM_BYTES} bytes"
                raise ValueError(msg)
    return body
