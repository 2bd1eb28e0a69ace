"""JWKS: the keys that an identity provider publishes, kept as long as they are good."""

import asyncio
import json
from collections.abc import Awaitable, Collection, Mapping, Sequence
from ssl import SSLContext, create_default_context
from time import monotonic
from typing import Any, Final

import jwt
from httpx2 import AsyncClient

from app.middleware.core.logger import layer_logger
from app.middleware.user import CannotCheckError

from .jwt_keys import Key, PublicKey, algorithms_for, common

_logger: Final = layer_logger(__name__)

_SECONDS_BETWEEN_FETCHES: Final = 10
_FRESH_SECONDS: Final = 300
_OLD_SECONDS: Final = 600
_FETCH_SECONDS: Final = 5
_MAXIMUM_BYTES: Final = 1_000_000
# Of a token that names none: each try costs the time of a signature.
_MOST_TRIED: Final = 16
# Compressed, a small response could hold a large set.
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}


class PublishedKeys:
    """
    The keys that an identity provider publishes at `url` (RFC 7517).

    They are fetched at the first token, every five minutes, and when no key verifies a token, since
    providers change theirs, at times under the old name. A token waits for the fetch only where the
    keys are ten minutes old, as after a time without tokens: one that was taken back meanwhile
    would verify it. A token that names no key (RFC 7515, 4.1.4) is tried with those that fit its
    algorithm. However many tokens ask, one fetch runs at a time, and none within ten seconds of
    another. While the provider is down its old keys stay. A set without a usable key takes them
    back, as one with others does; where no key is known, no token can be checked.
    """

    def __init__(self, url: str, algorithms: Collection[str]) -> None:
        self.version = 0
        self._url = url
        self._algorithms = algorithms
        self._tls = create_default_context()
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
            published = json.loads(await _download(self._url, self._tls))["keys"]
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


async def _download(url: str, tls: SSLContext) -> bytes:
    body = b""
    # A redirect could lead to keys of another host: none is followed.
    async with (
        asyncio.timeout(_FETCH_SECONDS),
        AsyncClient(verify=tls, headers=_HEADERS) as client,
        client.stream("GET", url) as response,
    ):
        response.raise_for_status()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _MAXIMUM_BYTES:
                msg = f"more than {_MAXIMUM_BYTES} bytes"
                raise ValueError(msg)
    return body
