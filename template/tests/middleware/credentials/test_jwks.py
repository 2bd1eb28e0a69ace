"""JWKS: keys come from the provider, and its faults are not those of users."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi.testclient import TestClient
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from app.middleware.credentials import jwks
from app.middleware.credentials.jwt_verifier import JwtVerifier
from app.middleware.user import BadCredentialError, CannotCheckError, User
from tests.middleware.conftest import ProbeApp, ProbeClient

from .test_jwt_verifier import (
    HS256,
    SECRET,
    Clock,
    PrivateKey,
    add_routes,
    ask,
    bearer,
    ec_key,
    es256,
    part,
    payload,
    pem,
    request_with,
    rsa_key,
    signed,
    verifier,
)


def published(key: PrivateKey, kid: str | None, **members: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, **({"kid": kid} if kid else {}), **members}


class Provider:
    """An identity provider on loopback, of which everything can go wrong."""

    def __init__(self) -> None:
        self.answer: object = {"keys": [published(ec_key("a"), "a")]}
        self.status = 200
        self.seconds = 0.0
        self.pause = 0.0
        self.drips_after: bytes | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(OSError):  # the service waits no longer
                    self.answer()

            def answer(self) -> None:
                provider.asked += 1
                provider.may_answer.wait()
                if provider.drips_after is not None:
                    self.wfile.write(provider.drips_after)
                    self.drip(b"0" * 300, 0.01)
                time.sleep(provider.seconds)
                answer = provider.answer
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(provider.status)
                if provider.status == 302:
                    self.send_header("Location", "/elsewhere")
                    provider.status = 200
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if provider.pause:
                    self.drip(body, provider.pause)
                    return
                self.wfile.write(body)

            def drip(self, body: bytes, pause: float) -> None:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(pause)

            def log_message(self, *_: Any, **__: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(self, *names: str) -> None:
        self.answer = {"keys": [published(ec_key(name), name) for name in names]}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("no_proxy", "*")
    provider = Provider()
    yield provider
    provider.server.shutdown()
    provider.server.server_close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that doesn't move."""
    clock = Clock()
    monkeypatch.setattr(jwks, "monotonic", clock)
    return clock


@pytest.fixture
def start(probe_app: ProbeApp, probe_client: ProbeClient) -> Callable[..., TestClient]:
    def build(**settings: Any) -> TestClient:
        app = probe_app(**settings)
        add_routes(app)
        return probe_client(app=app)

    return build


@pytest.fixture
def verify(provider: Provider) -> JwtVerifier:
    return verifier(jwt_key=None, jwt_jwks_url=provider.url, jwt_algorithms=["RS256", "ES256"])


def test_published_keys_are_fetched_once(
    provider: Provider, start: Callable[..., TestClient]
) -> None:
    client = start(jwt_key="", jwt_jwks_url=provider.url, jwt_algorithms="RS256,ES256")

    assert client.get("/probe/ok").status_code == 200
    assert provider.asked == 0
    for _ in range(3):
        assert client.get("/me", headers=bearer(es256("a"))).json() == "alice"
    assert provider.asked == 1


def test_fresh_keys_are_not_fetched_again(
    provider: Provider, verify: JwtVerifier, clock: Clock
) -> None:
    async def run() -> None:
        await ask(verify, es256("a"))
        clock.now += 290
        await ask(verify, es256("a"))
        await asyncio.sleep(0.05)

    asyncio.run(run())

    assert provider.asked == 1


@pytest.mark.parametrize(
    ("slow", "by", "most"), [("seconds", 0.5, 0.05), ("pause", 0.1, 0.5)], ids=["head", "body"]
)
def test_a_provider_that_dawdles_is_given_up(
    slow: str,
    by: float,
    most: float,
    *,
    provider: Provider,
    verify: JwtVerifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks, "_FETCH_SECONDS", most)
    setattr(provider, slow, by)

    with pytest.raises(CannotCheckError):
        asyncio.run(ask(verify, es256("a")))


@pytest.mark.parametrize(
    "after",
    [
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nServer: ",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["status", "header", "chunk", "body"],
)
def test_a_provider_that_drips_is_asked_again(
    after: bytes,
    provider: Provider,
    verify: JwtVerifier,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each byte is in time, and no other fetch begins until one has ended."""
    monkeypatch.setattr(jwks, "_FETCH_SECONDS", 0.2)
    monkeypatch.setattr(jwks, "_SECONDS_BETWEEN_FETCHES", 0)
    provider.drips_after = after

    async def run() -> None:
        async with asyncio.timeout(2):
            while "can't be fetched" not in caplog.text:
                with pytest.raises(CannotCheckError):
                    await ask(verify, es256("a"))
        provider.drips_after = None
        assert (await ask(verify, es256("a"))).id

    asyncio.run(run())


def test_a_provider_that_is_down_at_first_is_a_503(
    provider: Provider, clock: Clock, start: Callable[..., TestClient]
) -> None:
    """To let the token pass, or to call it wrong, would both be guesses."""
    provider.status = 500
    client = start(jwt_key="", jwt_jwks_url=provider.url, jwt_algorithms="RS256,ES256")

    for _ in range(3):
        response = client.get("/me", headers=bearer(es256("a")))
        assert response.status_code == 503
        assert response.headers["retry-after"] == "10"
        assert response.json()["layer"] == "authentication"
    assert provider.asked == 1
    assert client.get("/me", headers=bearer("wrong")).status_code == 401
    assert client.get("/probe/ok").status_code == 200

    provider.status = 200
    clock.now += 11
    assert client.get("/me", headers=bearer(es256("a"))).json() == "alice"


def test_a_new_key_is_found(provider: Provider, verify: JwtVerifier, clock: Clock) -> None:
    async def rotate() -> None:
        await ask(verify, es256("a"))
        provider.publish("a", "b")
        clock.now += 11
        assert (await ask(verify, es256("b"))).id
        assert (await ask(verify, es256("a"))).id

    asyncio.run(rotate())

    assert provider.asked == 2


def test_unknown_keys_do_not_flood_the_provider(
    provider: Provider, verify: JwtVerifier, clock: Clock
) -> None:
    async def guess() -> None:
        await ask(verify, es256("a"))
        for number in range(20):
            with pytest.raises(BadCredentialError, match="unknown key"):
                await ask(verify, es256("b", f"guess-{number}"))
        clock.now += 11
        with pytest.raises(BadCredentialError, match="unknown key"):
            await ask(verify, es256("b", "another"))

    asyncio.run(guess())

    assert provider.asked == 2


def test_a_key_that_is_taken_back_verifies_no_more(
    provider: Provider, verify: JwtVerifier, clock: Clock
) -> None:
    """What was remembered of it is forgotten too."""

    async def rotate() -> None:
        good = es256("a")
        assert (await ask(verify, good)).id
        provider.publish("b")
        clock.now += 301
        assert (await ask(verify, good)).id, "nobody waits for the new keys"
        await settled(lambda: verify.keys.version == 2)
        with pytest.raises(BadCredentialError, match="unknown key"):
            await ask(verify, good)

    asyncio.run(rotate())


def test_after_an_idle_time_a_token_waits_for_the_keys(
    provider: Provider, verify: JwtVerifier, clock: Clock
) -> None:
    """However long ago its key was taken back."""
    provider.seconds = 0.1

    async def rotate() -> None:
        good = es256("a")
        assert (await ask(verify, good)).id
        provider.publish("b")
        clock.now += 601
        waiting = (ask(verify, good) for _ in range(3))
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(item) for item in found] == [BadCredentialError] * 3
        assert (await ask(verify, es256("b"))).id

    asyncio.run(rotate())

    assert provider.asked == 2


def test_in_an_outage_one_token_waits_and_the_others_pass(
    provider: Provider, verify: JwtVerifier, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def outage() -> None:
        good = es256("a")
        await ask(verify, good)
        provider.status = 500
        clock.now += 3600
        assert (await ask(verify, good)).id
        assert provider.asked == 2
        await ask(verify, good)  # and remember it
        clock.now += 11
        assert isinstance(verify.user(request_with(good)), User), "at once, while a fetch runs"
        await settled(lambda: len(caplog.records) == 2)  # that fetch failed too
        assert provider.asked == 3
        provider.publish("b")
        provider.status = 200
        clock.now += 301
        with pytest.raises(BadCredentialError):
            await ask(verify, good)

    asyncio.run(outage())


async def settled(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def test_old_keys_stay_while_the_provider_is_down(
    provider: Provider, verify: JwtVerifier, clock: Clock
) -> None:
    async def outage() -> None:
        await ask(verify, es256("a"))
        provider.status = 500
        clock.now += 301
        await ask(verify, es256("a"))
        await settled(lambda: provider.asked == 2)
        assert (await ask(verify, es256("a"))).id
        clock.now += 11
        with pytest.raises(CannotCheckError):
            await ask(verify, es256("b"))

    asyncio.run(outage())


@pytest.mark.parametrize(
    "keys",
    [[], [{"kty": "x"}], [published(ec_key("a"), "a", use="enc")]],
    ids=["none", "unknown", "for encryption"],
)
def test_a_set_without_a_usable_key_takes_the_old_ones_back(
    keys: list[Any],
    provider: Provider,
    verify: JwtVerifier,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As in jose, Nimbus and keyfunc: what the provider no longer publishes is revoked."""

    async def revoke() -> None:
        good = es256("a")
        assert (await ask(verify, good)).id
        provider.answer = {"keys": keys}
        clock.now += 301
        assert (await ask(verify, good)).id
        await settled(lambda: verify.keys.version == 2)
        for _ in range(3):
            with pytest.raises(CannotCheckError):
                await ask(verify, good)
        clock.now += 11
        with pytest.raises(CannotCheckError):
            await ask(verify, good)
        provider.publish("a")
        clock.now += 11
        assert (await ask(verify, good)).id

    asyncio.run(revoke())

    warnings = [record.getMessage() for record in caplog.records]
    sentence = f"of the {len(keys)} keys at {provider.url}, none is for RS256, ES256"
    assert warnings == [sentence] * 2, "one for each fetch"


def test_many_requests_share_one_fetch(provider: Provider, verify: JwtVerifier) -> None:
    provider.seconds = 0.1

    async def storm() -> Sequence[User]:
        return await asyncio.gather(*(ask(verify, es256("a")) for _ in range(20)))

    assert len(asyncio.run(storm())) == 20
    assert provider.asked == 1


def test_a_fetch_does_not_stop_other_requests(provider: Provider, verify: JwtVerifier) -> None:
    provider.may_answer.clear()

    async def race() -> User:
        waiting = asyncio.create_task(ask(verify, es256("a")))
        await settled(lambda: provider.asked == 1)
        provider.may_answer.set()  # which nobody could while the fetch stopped the loop
        return await waiting

    assert asyncio.run(race()).id


def test_a_request_that_gives_up_does_not_end_the_fetch(
    provider: Provider, verify: JwtVerifier
) -> None:
    provider.may_answer.clear()

    async def impatient() -> User:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(verify, es256("a")), 0.02)
        provider.may_answer.set()
        return await ask(verify, es256("a"))

    assert asyncio.run(impatient()).id
    assert provider.asked == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[" * 100_000,
        [],
        {},
        {"keys": None},
        {"keys": {}},
        {"keys": []},
        {"keys": [None, "x", {}, {"kty": "x"}]},
        {"keys": [{"kty": "oct", "k": part(SECRET.encode()), "kid": "a"}]},
        {"keys": [published(ec_key("a"), "a", use="enc")]},
        {"keys": [published(ec_key("a"), "a", alg="HS256")]},
        {"keys": [published(ec_key("p384"), "a")]},
        {"keys": [published(ec_key("a"), "a")], "padding": "x" * 1_000_000},
    ],
)
def test_an_answer_without_a_usable_key_is_as_none(
    answer: object, provider: Provider, verify: JwtVerifier
) -> None:
    provider.answer = answer

    with pytest.raises(CannotCheckError):
        asyncio.run(ask(verify, es256("a")))


def test_a_redirect_is_not_followed(provider: Provider, verify: JwtVerifier) -> None:
    """Keys are trusted because of their address."""
    provider.status = 302

    with pytest.raises(CannotCheckError):
        asyncio.run(ask(verify, es256("a")))
    assert provider.asked == 1


def test_a_weak_key_is_left_out(provider: Provider, verify: JwtVerifier) -> None:
    weak = published(rsa_key(1024), "weak")
    provider.answer = {"keys": [weak, published(ec_key("a"), "a")]}
    with pytest.warns(Warning, match="below"):
        by_weak = jwt.encode(payload(), rsa_key(1024), "RS256", headers={"kid": "weak"})

    async def run() -> None:
        assert (await ask(verify, es256("a"))).id
        with pytest.raises(BadCredentialError, match="unknown key"):
            await ask(verify, by_weak)

    asyncio.run(run())


def test_a_key_of_an_unknown_kind_hides_no_others(provider: Provider, verify: JwtVerifier) -> None:
    odd = published(ec.generate_private_key(ec.SECP256K1()), "odd")
    provider.answer = {"keys": [odd, published(ec_key("a"), "a")]}

    assert asyncio.run(ask(verify, es256("a"))).id


def test_a_key_is_good_for_the_algorithm_that_it_is_published_for(provider: Provider) -> None:
    provider.answer = {"keys": [published(rsa_key(), "r", alg="RS256")]}
    verify = verifier(jwt_key=None, jwt_jwks_url=provider.url, jwt_algorithms=["RS256", "PS256"])
    good, wrong = (
        jwt.encode(payload(), rsa_key(), name, headers={"kid": "r"}) for name in ("RS256", "PS256")
    )

    async def run() -> None:
        assert (await ask(verify, good)).id
        with pytest.raises(BadCredentialError, match="unknown key"):
            await ask(verify, wrong)

    asyncio.run(run())


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["b", "a"], ["b", "c", "a"]])
def test_a_token_may_leave_its_key_unnamed(
    names: list[str], provider: Provider, verify: JwtVerifier
) -> None:
    """RFC 7515, 4.1.4: each rotation has a time with two keys."""
    provider.publish(*names)

    assert asyncio.run(ask(verify, es256("a", ""))).id
    assert provider.asked == 1


def test_an_unnamed_key_that_nobody_published_is_refused(
    provider: Provider, verify: JwtVerifier
) -> None:
    provider.publish("a", "b")

    with pytest.raises(BadCredentialError):
        asyncio.run(ask(verify, es256("c", "")))
    assert provider.asked == 1


def test_only_keys_for_signatures_of_the_algorithm_are_tried(
    provider: Provider, verify: JwtVerifier
) -> None:
    provider.answer = {
        "keys": [
            published(rsa_key(), "r"),
            published(ec_key("a"), "encrypts", use="enc"),
            published(ec_key("a"), "signs", key_ops=["sign"]),
            published(ec_key("b"), "b", use="sig", key_ops=["verify"]),
            published(ec_key("c"), "c", use=None, key_ops=None),
        ]
    }

    async def run() -> None:
        assert (await ask(verify, es256("b", ""))).id
        assert (await ask(verify, es256("c", ""))).id
        with pytest.raises(BadCredentialError):
            await ask(verify, es256("a", ""))

    asyncio.run(run())


def test_a_key_that_was_published_without_a_name_may_be_the_named_one(
    provider: Provider, verify: JwtVerifier
) -> None:
    provider.answer = {"keys": [published(ec_key("b"), "b"), published(ec_key("a"), None)]}

    assert asyncio.run(ask(verify, es256("a", "today"))).id


def test_two_keys_of_one_name_are_both_tried(provider: Provider, verify: JwtVerifier) -> None:
    provider.answer = {"keys": [published(ec_key("b"), "x"), published(ec_key("a"), "x")]}

    assert asyncio.run(ask(verify, es256("a", "x"))).id


@pytest.mark.parametrize("kid", ["same", ""])
def test_a_key_that_no_longer_fits_is_looked_up_anew(
    kid: str, provider: Provider, verify: JwtVerifier, clock: Clock
) -> None:
    """A provider may exchange its key under the old name, or without any."""

    async def rotate() -> None:
        provider.answer = {"keys": [published(ec_key("a"), kid or None)]}
        assert (await ask(verify, es256("a", kid))).id
        provider.answer = {"keys": [published(ec_key("b"), kid or None)]}
        clock.now += 11
        assert (await ask(verify, es256("b", kid))).id
        with pytest.raises(BadCredentialError):
            await ask(verify, es256("a", kid))

    asyncio.run(rotate())

    assert provider.asked == 2


def test_forged_tokens_do_not_flood_the_provider(
    provider: Provider, verify: JwtVerifier, clock: Clock
) -> None:
    async def forge() -> None:
        assert (await ask(verify, es256("a"))).id
        for seconds in (0, 11, 0, 0):
            clock.now += seconds
            for _ in range(5):
                with pytest.raises(BadCredentialError, match="The token is not valid"):
                    await ask(verify, es256("b", "a"))

    asyncio.run(forge())

    assert provider.asked == 2


def test_a_few_keys_at_most_are_tried(
    provider: Provider, verify: JwtVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "_MOST_TRIED", 2)
    provider.publish("b", "c", "a")

    with pytest.raises(BadCredentialError):
        asyncio.run(ask(verify, es256("a", "")))


def test_a_published_key_is_no_secret(provider: Provider, verify: JwtVerifier) -> None:
    forged = signed({**HS256, "kid": "a"}, payload(), secret=pem(ec_key("a")))

    with pytest.raises(BadCredentialError):
        asyncio.run(ask(verify, forged))
    assert provider.asked == 0
