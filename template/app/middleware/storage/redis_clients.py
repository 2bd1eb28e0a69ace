"""The clients of Redis: of one server, of the master that Sentinel names, or of a Cluster."""

import re
from collections.abc import Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from .base import StorageLostError

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_ONE: Final = frozenset({"redis", "rediss"})
_FILES: Final = frozenset({"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"})
# The options that are text. Of the others redis-py reads some, and takes the text of the rest for
# an object, or for true.
_TEXT: Final = re.compile(r"(sentinel_)?(username|password)|client_name|lib_\w+|ssl_\w+")
_PROTOCOLS: Final = frozenset({"2", "3"})
_TINY: Final = 1e-9
_CAN_BE_ZERO: Final = frozenset({"db", "health_check_interval"})
_HOST: Final = re.compile(r"[^\s,\\]+")
_MANY: Final = re.compile(
    r"(?P<scheme>rediss?)[+](?P<kind>sentinel|cluster)://"
    r"(?P<user>[^@/?]*@)?(?P<hosts>[^@/?]+)(?P<path>/[^?]*)?(?P<options>[?].*)?"
)
# For one replica, and the milliseconds that it may take: less than a request waits.
_WAIT: Final = ("WAIT", 1, 50)
# Any other error is that of a connection.
_OF_ONE_COMMAND: Final = (ResponseError, StorageLostError)
_CONNECT_TIMEOUT: Final = 1.0
# One of several hosts that is gone must leave time for the others.
_CONNECT_TIMEOUT_OF_MANY: Final = 0.3


class AddressError(ValueError):
    """An address that is none, and what is wrong with it."""


Command = tuple[Any, ...]


class Client(Protocol):
    """What sends commands to Redis."""

    async def exchange(self, commands: Sequence[Command], *, replicated: bool) -> list[Any]:
        """
        Return what each command gave, or why it failed.

        Those that are `replicated` must outlive their server, and are scripts of one key.
        """
        ...

    async def try_out(self, commands: Sequence[Command], *, replicated: bool) -> None:
        """Send `commands`, and ask all servers that any may need; raise why one fails."""

    async def disconnect(self) -> None:
        """Close the connections; the next exchange opens new ones."""


class _Server:
    """One Redis, or the master that Sentinel names."""

    def __init__(self, redis: Redis, sentinel: Any = None) -> None:
        self.redis = redis
        self.sentinel = sentinel

    async def exchange(self, commands: Sequence[Command], *, replicated: bool) -> list[Any]:
        waits = replicated and self.sentinel is not None
        async with self.redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            if waits:
                pipeline.execute_command(*_WAIT)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        if waits:
            replicas = answers.pop()
            return [_confirmed(answer, replicas) for answer in answers]
        return answers

    async def try_out(self, commands: Sequence[Command], *, replicated: bool) -> None:
        _raise_failure(await self.exchange(commands, replicated=replicated))

    async def disconnect(self) -> None:
        await self.redis.connection_pool.disconnect()
        for sentinel in self.sentinel.sentinels if self.sentinel else ():
            await sentinel.connection_pool.disconnect()


class _Cluster:
    """A Cluster. It is lost as a whole while one of its primaries is, or lacks its replicas."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster

    async def exchange(self, commands: Sequence[Command], *, replicated: bool) -> list[Any]:
        answers = await self._send(commands, replicated=replicated)
        moved = [at for at, answer in enumerate(answers) if isinstance(answer, MovedError)]
        if moved:  # to another primary, where nothing of it has run yet
            await self.disconnect()
            again = await self._send([commands[at] for at in moved], replicated=replicated)
            for at, answer in zip(moved, again, strict=True):
                answers[at] = answer
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, _OF_ONE_COMMAND):
                raise answer
        return answers

    async def try_out(self, commands: Sequence[Command], *, replicated: bool) -> None:
        _raise_failure(await self.exchange(commands, replicated=replicated))
        command = _WAIT if replicated else ("PING",)
        pipeline = self._cluster.pipeline()
        for node in self._cluster.get_primaries():
            pipeline.execute_command(*command, target_nodes=node)
        answers = await pipeline.execute(raise_on_error=False)
        _raise_failure([_confirmed(answer, replicas=answer) for answer in answers])

    async def disconnect(self) -> None:
        await self._cluster.aclose()

    async def _send(self, commands: Sequence[Command], *, replicated: bool) -> list[Any]:
        await self._cluster.initialize()
        pipeline = self._cluster.pipeline()
        nodes: dict[Any, list[int]] = {}
        for at, command in enumerate(commands):
            pipeline.execute_command(*command)
            if replicated:
                node = self._cluster.get_node_from_key(command[3])
                nodes.setdefault(node, []).append(at)
        for node in nodes:
            # On the connection of that node's commands: it waits for what this has written.
            pipeline.execute_command(*_WAIT, target_nodes=node)
        answers = await pipeline.execute(raise_on_error=False, allow_redirections=False)
        confirmations = answers[len(commands) :]
        for replicas, places in zip(confirmations, nodes.values(), strict=True):
            for at in places:
                answers[at] = _confirmed(answers[at], replicas)
        return answers[: len(commands)]


def _confirmed(answer: Any, replicas: Any) -> Any:
    """Return `answer`, or why it may not outlive its server, where WAIT returned `replicas`."""
    if isinstance(answer, Exception):
        return answer
    if isinstance(replicas, Exception):
        return replicas
    return answer if replicas else StorageLostError("no replica confirmed it")


def _raise_failure(answers: Sequence[Any]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def client(url: str) -> Client:
    """Return a client for `url`; raise a `ValueError` that holds no secret where it is none."""
    for name, value in parse_qsl(urlsplit(url).query):
        _refuse_option(name, value)
    many = _MANY.fullmatch(url)
    if many is None:
        return _Server(_one(url))
    hosts = many["hosts"].split(",")
    found = [_parsed(many, host) for host in hosts]
    addresses = [(options.pop("host"), options.pop("port", None)) for options in found]
    options = {**_options(_CONNECT_TIMEOUT_OF_MANY), **found[0]}
    return (
        _cluster(many, addresses, options)
        if many["kind"] == "cluster"
        else _master(many, addresses, options)
    )


def _refuse_option(name: str, value: str) -> None:
    """Refuse an option that the storage can't work with."""
    if name in _FILES and not Path(value).exists():
        msg = f"names a file in {name} that isn't there: {value}"
        raise AddressError(msg)
    kind = URL_QUERY_ARGUMENT_PARSERS.get(name)
    usable = kind not in {None, list} or _TEXT.fullmatch(name) or value.lower() == "utf-8"
    if not usable or (name == "protocol" and value not in _PROTOCOLS):
        msg = (
            f"must not have the option {name} with that value, which breaks the storage, but be an"
            " address such as redis://user:password@host:6379/0,"
            " redis+sentinel://host:26379,host:26379/mymaster or redis+cluster://host:6379"
        )
        raise AddressError(msg)
    if kind in {int, float}:
        number, least = float(value), 0 if name in _CAN_BE_ZERO else _TINY
        if not (isfinite(number) and number >= least):
            rule = "above 0" if least else "from 0 up"
            msg = f"must have a number {rule} as its option {name}, not {value}"
            raise AddressError(msg)


def _options(timeout: float) -> dict[str, Any]:
    return {
        "protocol": 2,
        "encoding_errors": "surrogatepass",  # else one odd id would pass for a lost connection
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _one(url: str) -> Redis:
    redis = Redis.from_url(url, **_options(_CONNECT_TIMEOUT))
    _refuse_odd_options(redis)
    parts = urlsplit(url)
    if parts.scheme == "unix":
        right = parts.path.startswith("/") and parts.hostname is None
    else:
        # redis-py takes database 0 for a path that is no number, and localhost for no host.
        database = re.fullmatch(r"(/[0-9]*)?", parts.path)
        host = parts.hostname or ""
        right = parts.scheme in _ONE and _is_host(host) and database is not None
    if not right:
        raise ValueError
    return redis


def _is_host(name: str) -> bool:
    """Return whether a lookup takes `name`."""
    with suppress(UnicodeError):
        return bool(_HOST.fullmatch(name) and name.encode("idna"))
    return False


def _refuse_odd_options(redis: Redis) -> None:
    pool: Any = redis.connection_pool
    pool.make_connection()


def _parsed(many: re.Match[str], host: str) -> dict[str, Any]:
    url = f"{many['scheme']}://{many['user'] or ''}{host}{many['options'] or ''}"
    options: dict[str, Any] = dict(parse_url(url))
    if not _is_host(options.get("host", "")):
        raise ValueError
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return options


def _master(
    many: re.Match[str], addresses: list[tuple[str, int | None]], options: dict[str, Any]
) -> Client:
    name, _, database = (many["path"] or "")[1:].partition("/")
    if not name or not re.fullmatch(r"[0-9]*", database):
        msg = (
            "name the master after the Sentinels, such as redis+sentinel://a:26379,b:26379/mymaster"
        )
        raise AddressError(msg)
    login = {key: options.pop(f"sentinel_{key}", None) for key in ("username", "password")}
    shared = {key: options[key] for key in options if key.startswith(("socket_", "ssl"))}
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        [(host, port or _SENTINEL_PORT) for host, port in addresses],
        sentinel_kwargs={**_options(_CONNECT_TIMEOUT_OF_MANY), **shared, **login},
        **options,
        db=int(database or 0),
    )
    redis = sentinel.master_for(name)
    _refuse_odd_options(redis)
    return _Server(redis, sentinel)


def _cluster(
    many: re.Match[str], addresses: list[tuple[str, int | None]], options: dict[str, Any]
) -> Client:
    if many["path"] not in {None, "/", "/0"}:
        msg = "a Cluster has only database 0, so leave the path out"
        raise AddressError(msg)
    nodes = [ClusterNode(host, port or _PORT) for host, port in addresses]
    # The hosts of the address stay those to begin with, whatever they said of the others.
    return _Cluster(RedisCluster(startup_nodes=nodes, dynamic_startup_nodes=False, **options))
