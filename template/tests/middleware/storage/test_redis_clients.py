"""The addresses of Redis: of one server, of Sentinels, of a Cluster, and what is none."""

from typing import Any, Final

import pytest
from pydantic import ValidationError

from app.middleware.storage import redis_clients
from tests.middleware.conftest import stack_settings

GOOD: Final = (
    "redis://localhost",
    "redis://user:p%40ss@redis.test:6379/3",
    "rediss://redis.test?ssl_ca_certs=/dev/null",
    "rediss://user:pw@redis.example:6380/1",
    "unix:///run/redis.sock",
    "unix:///run/redis.sock?db=2",
    "redis+sentinel://a:26379,b:26379,c:26379/mymaster",
    "redis+sentinel://user:password@a,b/mymaster/2?sentinel_password=other",
    "rediss+sentinel://[2001:db8::1]:26379,b/mymaster?ssl_ca_certs=/dev/null",
    "redis+cluster://a:6379,b:6379",
    "rediss+cluster://:password@a/0",
    "redis://a?encoding=utf-8&protocol=3&socket_timeout=0.5&client_name=orders&db=0",
    "rediss://a?ssl_cert_reqs=none&health_check_interval=0&socket_keepalive=true",
)
BAD: Final = (
    "http://redis.test",
    "redis://",
    "redis://redis.test/first",
    "redis+sentinel://",
    "redis+sentinel://a:x/mymaster",
    "redis+sentinel://a,,b/mymaster",
    "redis+sentinel://a/mymaster?nonsense=1",
    "redis+cluster://a?nonsense=1",
    "redis+cluster+tls://a",
)


@pytest.mark.parametrize("url", GOOD)
def test_an_address_is_taken(url: str) -> None:
    assert stack_settings(storage_url=url).storage_url.get_secret_value() == url


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_address_is_refused_with_the_forms_that_are(url: str) -> None:
    with pytest.raises(ValidationError, match=r"redis\+sentinel://host:26379,host:26379/mymaster"):
        stack_settings(storage_url=url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis+sentinel://a,b", "name the master"),
        ("redis+sentinel://a,b/mymaster/first", "name the master"),
        ("redis+cluster://a,b/1", "only database 0"),
    ],
)
def test_a_part_that_is_wrong_is_named(url: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        stack_settings(storage_url=url)


@pytest.mark.parametrize(
    "address", ["redis://a", "redis+sentinel://a,b/main", "redis+cluster://a,b"]
)
@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        *((f"decode_responses={value}", "not have the option dec") for value in ("true", "false")),
        ("encoding=utf-16", "not have the option encoding "),
        ("encoding_errors=strict", "not have the option encoding_errors"),
        ("protocol=1", "not have the option protocol "),
        ("retry_on_error=x", "not have the option retry_on_error"),
        ("socket_keepalive_options=x", "not have the option socket_keepalive_options"),
        ("read_from_replicas=true", "not have the option read_from_replicas"),
        *((f"socket_timeout={value}", "a number above 0") for value in ("0", "-1", "nan", "inf")),
        ("socket_connect_timeout=0", "a number above 0"),
        ("socket_read_size=0", "a number above 0"),
        ("max_connections=0", "a number above 0"),
        ("db=-1", "a number from 0 up"),
    ],
)
def test_an_option_that_breaks_the_storage_is_refused(
    option: str, sentence: str, address: str
) -> None:
    """Redis would seem lost from the first request on, and the limits would be off."""
    with pytest.raises(ValidationError, match=sentence):
        stack_settings(storage_url=f"{address}?{option}")


@pytest.mark.parametrize(
    "url", ["redis+sentinel://user:secret-word@a", "redis://a?pasword=secret-word"]
)
def test_no_refusal_shows_the_password(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        stack_settings(storage_url=url)

    assert "secret-word" not in str(refused.value)


def test_each_host_and_its_options_are_read() -> None:
    url = (
        "rediss+sentinel://user:p%40ss@a,b:1/mymaster/2?ssl_ca_certs=/dev/null&sentinel_password=s"
    )

    server: Any = redis_clients.client(url)

    hosts = [each.connection_pool.connection_kwargs for each in server.sentinel.sentinels]
    assert [(host["host"], host["port"]) for host in hosts] == [("a", 26379), ("b", 1)]
    assert {host["password"] for host in hosts} == {"s"}
    pool = server.redis.connection_pool
    assert pool.service_name == "mymaster"
    assert pool.connection_kwargs["db"] == 2
    assert pool.connection_kwargs["password"] == "p@ss"
    assert pool.connection_kwargs["ssl_ca_certs"] == "/dev/null"
