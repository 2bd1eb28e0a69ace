"""API keys: a key names its caller, and the service can't be asked for it."""

import subprocess
import sys
from hashlib import sha256
from typing import Annotated, Any, Final

import pytest
from fastapi import Security
from pydantic import ValidationError

from app.middleware import StackSettings
from app.middleware.authentication import CurrentUser, User, current_user
from app.middleware.credentials.api_keys import new_api_key
from tests.middleware.conftest import ProbeApp, ProbeClient, stack_settings

NAMES: Final = ("alice", "bob", "carol", "dave")


def entry(name: str, key: str) -> str:
    return f"{name}:{sha256(key.encode()).hexdigest()}"


SETTINGS: Final[dict[str, Any]] = {"api_keys": [entry(name, f"key of {name}") for name in NAMES]}
BAD: Final = {"X-API-Key": "wrong"}


def headers(user: str) -> dict[str, str]:
    """Return what authenticates `user`."""
    return {"X-API-Key": f"key of {user}"}


@pytest.mark.parametrize(
    "sent",
    [
        [("X-API-Key", "")],
        [("X-API-Key", "key of alic")],
        [("X-API-Key", "key of alice2")],
        [("X-API-Key", sha256(b"key of alice").hexdigest())],
        [("X-API-Key", "x" * 20_000)],
        [(b"X-API-Key", b"\xff\xfe")],
    ],
)
def test_any_other_key_is_refused(sent: Any, probe_client: ProbeClient) -> None:
    response = probe_client(**SETTINGS).get("/probe/ok", headers=sent)

    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith('ApiKey error="invalid_token"')


@pytest.mark.parametrize("name", ["X-API-Key", "Partner-Key"])
@pytest.mark.parametrize(
    ("path", "key", "stored"),
    [
        ("/probe/ok", None, True),
        ("/probe/ok", "key of alice", False),
        ("/probe/raise/404", "key of alice", False),
        ("/probe/headers?name=Cache-Control&value=max-age=60", None, True),
        ("/probe/headers?name=Cache-Control&value=max-age=60", "key of alice", True),
        ("/probe/headers?name=Vary&value=X-Tenant", None, True),
        ("/probe/headers?name=Vary&value=X-Tenant", "key of alice", False),
    ],
)
def test_a_cache_keeps_callers_apart(
    name: str,
    path: str,
    key: str | None,
    stored: bool,  # noqa: FBT001
    probe_client: ProbeClient,
) -> None:
    """Where an endpoint lets a cache store, one caller must not get what another one got."""
    client = probe_client(api_key_header=name, **SETTINGS)

    response = client.get(path, headers={} if key is None else {name: key})

    if stored:
        (vary,) = response.headers.get_list("vary")
        assert name in vary.split(", ")
    else:
        assert response.headers["cache-control"] == "no-store"


def test_a_response_that_depends_on_no_key_does_not_vary(probe_client: ProbeClient) -> None:
    client = probe_client(probe_paths=["/probe/ok"], **SETTINGS)

    response = client.get("/probe/ok", headers=headers("alice"))

    assert "X-API-Key" not in response.headers.get("vary", "")


@pytest.mark.parametrize("second", ["key of alice", "wrong"])
def test_two_keys_are_refused(second: str, probe_client: ProbeClient) -> None:
    """One reader takes the first, another the last."""
    sent = [("X-API-Key", "key of alice"), ("X-API-Key", second)]

    response = probe_client(**SETTINGS).get("/probe/ok", headers=sent)

    assert response.status_code == 400
    assert response.headers["www-authenticate"].startswith('ApiKey error="invalid_request"')


def test_the_header_can_be_renamed(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app(api_key_header="Partner-Key", **SETTINGS)

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.id

    client = probe_client(app=app)
    assert client.get("/me", headers={"Partner-Key": "key of bob"}).json() == "bob"
    assert client.get("/me", headers=headers("bob")).status_code == 401
    schemes = app.openapi()["components"]["securitySchemes"]
    assert schemes["api_key"] == {"type": "apiKey", "in": "header", "name": "Partner-Key"}


def test_a_caller_may_have_two_keys(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    """So a key can be replaced without a moment in which neither works."""
    app = probe_app(api_keys=[entry("alice", "old"), entry("alice", "new")])

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.id

    client = probe_client(app=app)
    assert client.get("/me", headers={"X-API-Key": "old"}).json() == "alice"
    assert client.get("/me", headers={"X-API-Key": "new"}).json() == "alice"


def test_an_entry_may_end_with_scopes(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    entries = [f"{entry('alice', 'one')}:orders:read orders:write", entry("bob", "two")]
    app = probe_app(api_keys=",".join(entries))

    @app.get("/orders")
    async def orders(user: Annotated[User, Security(current_user, scopes=["orders:read"])]) -> str:
        return user.id

    client = probe_client(app=app)
    assert client.get("/orders", headers={"X-API-Key": "one"}).json() == "alice"
    assert client.get("/orders", headers={"X-API-Key": "two"}).status_code == 403


def test_a_hash_may_be_in_upper_case(probe_client: ProbeClient) -> None:
    name, _, digest = entry("alice", "one").partition(":")
    client = probe_client(api_keys=f"{name}:{digest.upper()}")

    assert client.get("/probe/ok", headers={"X-API-Key": "one"}).status_code == 200


def test_the_command_takes_scopes() -> None:
    written = new_api_key("alice:orders:read orders:write").splitlines()[-1]

    (key,) = stack_settings(api_keys=written).api_keys
    assert key.name == "alice"
    assert key.scopes == {"orders:read", "orders:write"}


@pytest.mark.parametrize("scopes", ["", "a,b", "a  ", '"a"', "a\tb", "ä"])
def test_the_command_refuses_what_is_no_scope(scopes: str) -> None:
    with pytest.raises(SystemExit, match="scopes may follow"):
        new_api_key(f"alice:{scopes}")


def test_the_command_makes_a_key_that_works(probe_client: ProbeClient) -> None:
    output = subprocess.run(
        [sys.executable, "-m", "app.middleware", "api-key", "alice"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()

    key = output[0].rpartition(" ")[2]
    client = probe_client(api_keys=output[-1])
    assert client.get("/probe/ok", headers={"X-API-Key": key}).status_code == 200
    assert output[-1] == entry("alice", key)
    assert len(key) >= 43


def test_the_command_refuses_a_name_that_no_entry_can_hold() -> None:
    with pytest.raises(SystemExit, match="NAME must be 1 to 64 letters"):
        new_api_key("Alice, Bob")


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("", "must hold at least one key; `python -m app.middleware api-key NAME` makes one"),
        ("alice", "must be entries of the form name:sha256-hex"),
        ("alice:key", "must be entries of the form name:sha256-hex"),
        (entry("a b", "key"), "must be entries of the form name:sha256-hex"),
        (f"{entry('alice', 'key')},{entry('bob', 'key')}", "must not hold one key twice"),
    ],
)
def test_nonsense_is_refused_at_start(entries: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        stack_settings(api_keys=entries)


@pytest.mark.parametrize(
    ("header", "other"),
    [("X-Request-ID", "request_id_header"), ("authorization", "jwt_algorithms")],
)
def test_the_header_has_no_second_meaning(header: str, other: str) -> None:
    if other not in StackSettings.model_fields:
        pytest.skip("nothing else reads it")
    with pytest.raises(ValidationError, match="must not be"):
        stack_settings(api_key_header=header, api_keys=entry("alice", "key"))


def test_a_list_of_entries_is_read(probe_client: ProbeClient) -> None:
    client = probe_client(api_keys=f"{entry('alice', 'one')}, {entry('bob', 'two')}")

    assert client.get("/probe/ok", headers={"X-API-Key": "two"}).status_code == 200
