"""JWT: a token names its user, unless anything at all is wrong with it."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Annotated, Any, Final

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fastapi import FastAPI, Request, Security, WebSocket
from fastapi.testclient import TestClient
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import ValidationError
from starlette.testclient import WebSocketDenialResponse

from app.middleware.authentication import CurrentUser, User, current_user
from app.middleware.core.secret import check_secret
from app.middleware.credentials import jwt_verifier
from app.middleware.credentials.jwt_verifier import JwtVerifier
from app.middleware.user import BadCredentialError
from tests.middleware.conftest import ProbeApp, ProbeClient, stack_settings

SECRET: Final = hashlib.sha256(b"tokens").hexdigest()[:32]
SETTINGS: Final[dict[str, Any]] = {"jwt_key": SECRET, "jwt_algorithms": ["HS256"]}
STRICT: Final[dict[str, Any]] = {**SETTINGS, "jwt_issuer": "issuer", "jwt_audience": "api"}
BAD: Final = {"Authorization": "Bearer wrong"}

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def now(seconds: float) -> int:
    return int(time.time() + seconds)


def token(user: str = "alice", **claims: Any) -> str:
    payload = {"sub": user, "exp": now(3600), **claims}
    return jwt.encode(
        {name: value for name, value in payload.items() if value is not None},
        SECRET,
        algorithm="HS256",
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def headers(user: str) -> dict[str, str]:
    """Return what authenticates `user`."""
    return bearer(token(user))


def part(content: bytes | object) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: object, payload: object, secret: str = SECRET) -> str:
    """Sign as no library does: whatever the header says, with HMAC."""
    text = f"{part(header)}.{part(payload)}"
    return f"{text}.{part(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}"


def payload(user: str = "alice") -> dict[str, Any]:
    return {"sub": user, "exp": now(3600)}


@pytest.fixture
def start(probe_app: ProbeApp, probe_client: ProbeClient) -> Callable[..., TestClient]:
    def build(**settings: Any) -> TestClient:
        app = probe_app(**settings)
        add_routes(app)
        return probe_client(app=app)

    return build


def add_routes(app: FastAPI) -> None:
    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.id

    @app.get("/claims")
    async def claims(request: Request) -> dict[str, Any]:
        user: User = request.state.user
        return {"scopes": sorted(user.scopes), **user.claims}

    @app.get("/orders")
    def orders(user: Annotated[User, Security(current_user, scopes=["orders:read"])]) -> str:
        return user.id

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, user: CurrentUser) -> None:
        await websocket.accept(websocket.query_params.get("subprotocol"))
        await websocket.send_text(user.id)
        await websocket.close()


def test_a_good_token_names_its_user(start: Callable[..., TestClient]) -> None:
    client = start(**STRICT)
    good = token(iss="issuer", aud=["other", "api"], email="a@example.com")

    assert client.get("/me", headers=bearer(good)).json() == "alice"
    assert client.get("/claims", headers=bearer(good)).json()["email"] == "a@example.com"
    assert client.get("/me", headers={"Authorization": f"bearer {good}"}).json() == "alice"


@pytest.mark.parametrize("claims", [{"email": "a@example.com"}, {"roles": ["owner"]}])
def test_an_endpoint_can_return_its_user(
    claims: dict[str, Any], probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = probe_app(**SETTINGS)

    @app.get("/whoami")
    async def whoami(user: CurrentUser) -> User:
        return user

    @app.get("/about", response_model=None)
    async def about(user: CurrentUser) -> dict[str, Any]:
        return {"user": user}

    client, headers = probe_client(app=app), bearer(token(**claims))
    alone = client.get("/whoami", headers=headers).json()
    inside = client.get("/about", headers=headers).json()["user"]
    assert alone == inside
    assert alone["id"] == "alice"
    assert alone["claims"].items() >= claims.items()


def test_what_an_endpoint_does_to_claims_ends_with_its_request(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """The token is remembered, and so is nothing that was done to its claims."""
    app = probe_app(**SETTINGS)

    @app.get("/mutate")
    async def mutate(user: CurrentUser) -> list[str]:
        roles: Any = user.claims["roles"]
        organisation: Any = user.claims["organisation"]
        organisation["owners"].append(user.id)
        roles.append("owner")
        return [*roles, *organisation["owners"]]

    client = probe_client(app=app)
    good = bearer(token(roles=["user"], organisation={"owners": []}))

    for _ in range(3):
        assert client.get("/mutate", headers=good).json() == ["user", "owner", "alice"]


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": now(-40)}, "The token has expired."),
        ({"nbf": now(3600)}, "The token is not valid yet."),
        ({"iat": now(3600)}, "The token is not valid yet."),
        ({"aud": "another"}, "The token is meant for another audience."),
        ({"iss": "another"}, "The token comes from another issuer."),
        ({"aud": None}, "The token is not valid."),
        ({"iss": None}, "The token is not valid."),
        ({"exp": None}, "The token is not valid."),
        ({"exp": "soon"}, "The token is not valid."),
        ({"exp": float("inf")}, "The token is not valid."),
        ({"exp": {}}, "The token is not valid."),
        ({"nbf": "x"}, "The token is not valid."),
        ({"sub": None}, "The token is not valid."),
        ({"sub": ""}, "The token is not valid."),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(
    claims: dict[str, Any], reason: str, start: Callable[..., TestClient]
) -> None:
    wrong = token(**{"iss": "issuer", "aud": "api", **claims})

    response = start(**STRICT).get("/probe/ok", headers=bearer(wrong))

    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith(
        f'Bearer error="invalid_token", error_description="{reason}"'
    )


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"iss": "a", "aud": "x"}, 200),
        ({"iss": "b", "aud": ["y", "other"]}, 200),
        ({"iss": "c", "aud": "x"}, 401),
        ({"iss": "a", "aud": "z"}, 401),
        ({"iss": "a,b", "aud": "x,y"}, 401),
        ({"iss": ["a"], "aud": "x"}, 401),
    ],
)
def test_issuers_and_audiences_are_lists(
    claims: dict[str, Any], status: int, start: Callable[..., TestClient]
) -> None:
    client = start(**SETTINGS, jwt_issuer="a, b", jwt_audience="x,y")
    sent = bearer(signed(HS256, {**payload(), **claims}))

    assert client.get("/me", headers=sent).status_code == status


@pytest.mark.parametrize("issuers", ["", "a, b, a:7"])
def test_the_users_of_two_issuers_are_two(issuers: str) -> None:
    """A `sub` is unique for its issuer only (RFC 7519, 4.1.2)."""
    verify = verifier(jwt_issuer=issuers)
    claimed = [("a", "7"), ("b", "7"), ("a", "7:7"), ("a:7", "7")]

    users = [asyncio.run(ask(verify, token(user, iss=issuer))) for issuer, user in claimed]

    assert [(user.issuer, user.id) for user in users] == claimed
    assert len({user.account for user in users}) == len(users)


@pytest.mark.parametrize(("issuer", "claim"), [("a", "a"), ("", None)])
def test_where_there_is_one_issuer_the_id_is_enough(issuer: str, claim: str | None) -> None:
    user = asyncio.run(ask(verifier(jwt_issuer=issuer), token("7", iss=claim)))

    assert (user.issuer, user.account) == (None, "7")


def test_an_issuer_may_be_of_any_type_where_none_is_set() -> None:
    good = signed(HS256, {**payload(), "iss": ["a"]})

    assert asyncio.run(ask(verifier(), good)).issuer == "['a']"


@pytest.mark.parametrize(("claim", "seconds"), [("exp", -15), ("nbf", 15), ("iat", 15)])
def test_clocks_may_differ_a_little(
    claim: str, seconds: int, start: Callable[..., TestClient]
) -> None:
    claims: dict[str, Any] = {claim: now(seconds)}

    assert start(**SETTINGS).get("/me", headers=bearer(token(**claims))).status_code == 200


def test_a_token_for_somebody_else_is_refused_where_no_audience_is_set(
    start: Callable[..., TestClient],
) -> None:
    response = start(**SETTINGS).get("/me", headers=bearer(token(aud="another")))

    assert response.status_code == 401


HS256: Final = {"alg": "HS256", "typ": "JWT"}


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "€.€.€",
        "\xff\xfe\xfd",
        f"{part(HS256)}.{part(payload())}",
        f"{part(HS256)}.{part(payload())}.",
        f"{part(HS256)}.{part(payload('root'))}.{token().rpartition('.')[2]}",
        f"{token()}x",
        f"{token()}.more",
        token()[:-2],
        signed({"alg": "none"}, payload()),
        f"{part({'alg': 'none'})}.{part(payload())}.",
        f"{part({'alg': 'None'})}.{part(payload())}.",
        signed({"alg": "hs256"}, payload()),
        signed({"alg": "HS512"}, payload()),
        signed({"alg": "RS256"}, payload()),
        signed({"alg": ["HS256"]}, payload()),
        signed({"alg": {}}, payload()),
        signed({"alg": None}, payload()),
        signed({}, payload()),
        signed([], payload()),
        signed(HS256, []),
        signed(HS256, "text"),
        signed(HS256, {**payload(), "sub": 7}),
        signed(HS256, {**payload(), "sub": ["alice"]}),
        signed({**HS256, "kid": 7}, payload()),
        signed({**HS256, "crit": ["exp"]}, payload()),
        signed({**HS256, "b64": False}, payload()),
        signed(b'{"alg": "HS256"', payload()),
        signed(b'{"alg": "HS256", "x": "\xff"}', payload()),
        signed(HS256, b"\xff\xfe"),
        signed(b'{"x": ' + b"[" * 9000, payload()),
        signed(HS256, b"[" * 9000),
        signed(b"9" * 5000, payload()),
        signed(HS256, payload(), secret=SECRET[::-1]),
        "x" * 100_000,
        token(padding="x" * 100_000),
    ],
    ids=lambda wrong: wrong[:20],
)
def test_a_malformed_token_is_refused(wrong: str, start: Callable[..., TestClient]) -> None:
    """Whatever it makes a parser raise, it is its sender's fault."""
    sent = [(b"Authorization", b"Bearer " + wrong.encode())]

    response = start(**SETTINGS).get("/probe/ok", headers=sent)

    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith('Bearer error="invalid_token"')


@pytest.mark.parametrize(
    "value",
    [
        *("Basic YWxpY2U6cHc=", "Bearer", "Bearer ", "", "Token abc"),
        pytest.param(f"Token {token()}", id="a good token"),
    ],
)
def test_another_scheme_is_refused(value: str, start: Callable[..., TestClient]) -> None:
    response = start(**SETTINGS).get("/probe/ok", headers={"Authorization": value})

    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert ("error" in response.headers["www-authenticate"]) == (value.strip() == "Bearer")


def test_a_doubled_header_is_refused(start: Callable[..., TestClient]) -> None:
    """One reader takes the first, another the last; neither is wrong (RFC 6750, 3.1)."""
    good = ("Authorization", f"Bearer {token()}")

    response = start(**SETTINGS).get("/probe/ok", headers=[good, good])

    assert response.status_code == 400
    assert 'error="invalid_request"' in response.headers["www-authenticate"]


@pytest.mark.parametrize(
    "claims",
    [
        {"scope": "orders:read orders:write"},
        {"scope": ["orders:read"]},
        {"scp": "orders:read"},
        {"scp": ["orders:write", "orders:read"]},
    ],
)
def test_the_scopes_of_a_token_count(
    claims: dict[str, Any], start: Callable[..., TestClient]
) -> None:
    client = start(**SETTINGS)

    assert client.get("/orders", headers=bearer(token(**claims))).status_code == 200
    assert client.get("/orders", headers=bearer(token(scope="orders"))).status_code == 403


@pytest.mark.parametrize("scope", [7, None, {}, {"orders:read": False}, [["orders:read"]], [7]])
def test_strange_scopes_are_none(scope: object, start: Callable[..., TestClient]) -> None:
    strange = signed(HS256, {**payload(), "scope": scope})

    response = start(**SETTINGS).get("/orders", headers=bearer(strange))

    assert response.status_code in {401, 403}


def test_openapi_names_the_scheme(probe_app: ProbeApp) -> None:
    app = probe_app(**SETTINGS)
    add_routes(app)

    schemes = app.openapi()["components"]["securitySchemes"]

    assert schemes["jwt"] == {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


def test_a_browser_sends_the_token_as_a_subprotocol(start: Callable[..., TestClient]) -> None:
    client = start(**SETTINGS)

    with client.websocket_connect("ws://localhost/ws", subprotocols=["bearer", token()]) as ws:
        assert ws.receive_text() == "alice"
        assert ws.accepted_subprotocol == "bearer"


def test_a_subprotocol_of_the_endpoint_stays(start: Callable[..., TestClient]) -> None:
    offered = ["chat", "bearer", token()]

    with start(**SETTINGS).websocket_connect(
        "ws://localhost/ws?subprotocol=chat", subprotocols=offered
    ) as ws:
        assert ws.accepted_subprotocol == "chat"


@pytest.mark.parametrize(
    ("offered", "sent", "status"),
    [
        (["bearer", "wrong"], {}, 401),
        (["bearer", "x" * 20_000], {}, 401),
        (["bearer", token()], BAD, 400),
    ],
)
def test_a_websocket_with_a_wrong_token_is_refused(
    offered: list[str], sent: dict[str, str], status: int, start: Callable[..., TestClient]
) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as denial,
        # A copy, into which the client puts more.
        start(**SETTINGS).websocket_connect("ws://localhost/ws", offered, headers={**sent}),
    ):
        pass

    assert denial.value.status_code == status


# What is remembered


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that doesn't move."""
    clock = Clock()
    monkeypatch.setattr(jwt_verifier, "time", clock)
    return clock


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the tokens that were verified, one item each time."""
    found: list[str] = []
    decode = jwt.decode

    def note(token: str, *args: Any, **options: Any) -> Any:
        found.append(token)
        return decode(token, *args, **options)

    monkeypatch.setattr(jwt, "decode", note)
    return found


def verifier(**options: Any) -> JwtVerifier:
    settings = stack_settings(**{**SETTINGS, **options})
    return JwtVerifier(
        key=settings.jwt_key,
        jwks_url=settings.jwt_jwks_url,
        algorithms=settings.jwt_algorithms,
        issuers=settings.jwt_issuer,
        audiences=settings.jwt_audience,
    )


def request_with(token: str) -> Any:
    return SimpleNamespace(headers={b"authorization": f"Bearer {token}".encode()}, scope={})


async def ask(verify: JwtVerifier, token: str) -> User:
    """Return the user of a request with `token`."""
    user = verify.user(request_with(token))
    return user if isinstance(user, User) else await user


def test_a_token_is_verified_once(verified: list[str]) -> None:
    verify, good = verifier(), token()

    for _ in range(3):
        assert asyncio.run(ask(verify, good)) == User("alice", claims=jwt_claims(good))

    assert verified == [good]


def test_plain_claims_are_not_copied() -> None:
    verify, plain, listed = verifier(), token(), token(roles=["user"])

    def is_shared(token: str) -> bool:
        first, second = (asyncio.run(ask(verify, token)) for _ in range(2))
        return first is second

    assert [is_shared(plain), is_shared(listed)] == [True, False]


def jwt_claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims


@pytest.mark.usefixtures("verified")
def test_what_is_remembered_expires(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    verify, good = verifier(), token(exp=now(60))
    asyncio.run(ask(verify, good))

    clock.now += 88
    assert asyncio.run(ask(verify, good)).id

    clock.now += 3
    monkeypatch.setattr(jwt, "decode", expired)
    with pytest.raises(BadCredentialError, match="expired"):
        asyncio.run(ask(verify, good))


def expired(*_: Any, **__: Any) -> Any:
    raise jwt.ExpiredSignatureError


def test_a_wrong_token_is_not_remembered(verified: list[str]) -> None:
    verify, wrong = verifier(), token(exp=now(-40))

    for _ in range(2):
        with pytest.raises(BadCredentialError):
            asyncio.run(ask(verify, wrong))

    assert verified == [wrong, wrong]


def test_memory_is_bounded(verified: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt_verifier, "_MAXIMUM_REMEMBERED", 2)
    verify, tokens = verifier(), [token(name) for name in ("a", "b", "c")]

    for item in [*tokens, *tokens[1:], tokens[0]]:
        asyncio.run(ask(verify, item))

    assert verified == [*tokens, tokens[0]]


# Keys


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1() if name == "p384" else ec.SECP256R1())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pem(key: PrivateKey) -> str:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


def es256(name: str, kid: str | None = None) -> str:
    header = {"kid": kid or name} if kid != "" else {}
    return jwt.encode(payload(), ec_key(name), algorithm="ES256", headers=header)


@pytest.mark.parametrize("line_breaks", ["\n", "\\n"])
def test_a_public_key_verifies(line_breaks: str, start: Callable[..., TestClient]) -> None:
    key = pem(rsa_key()).replace("\n", line_breaks)
    client = start(jwt_key=key, jwt_algorithms=["RS256", "ES256"])

    good = jwt.encode(payload(), rsa_key(), algorithm="RS256")
    other = jwt.encode(payload(), rsa_key(), algorithm="PS256")

    assert client.get("/me", headers=bearer(good)).json() == "alice"
    assert client.get("/me", headers=bearer(other)).status_code == 401
    assert client.get("/me", headers=bearer(es256("a"))).status_code == 401


def test_a_public_key_is_no_secret(start: Callable[..., TestClient]) -> None:
    """Everybody knows it, so a token that was signed with its text proves nothing."""
    client = start(jwt_key=pem(rsa_key()), jwt_algorithms=["RS256", "HS256"])

    for text in (pem(rsa_key()), pem(rsa_key()).strip()):
        forged = signed(HS256, payload(), secret=text)

        assert client.get("/me", headers=bearer(forged)).status_code == 401


AnyKey = PrivateKey | ed25519.Ed25519PrivateKey


def public(key: AnyKey, encoding: Encoding = Encoding.DER) -> bytes:
    return key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def private(key: AnyKey, form: PrivateFormat, encoding: Encoding = Encoding.DER) -> bytes:
    return key.private_bytes(encoding, form, NoEncryption())


def certificate(key: AnyKey, encoding: Encoding) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "id.example")])
    day = datetime(2026, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 7, day, day)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return made.sign(key, algorithm).public_bytes(encoding)


def jwk(key: AnyKey) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return RSAAlgorithm.to_jwk(key.public_key())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ECAlgorithm.to_jwk(key.public_key())
    return OKPAlgorithm.to_jwk(key.public_key())


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


# What people paste of a key, and the way out; as a shared secret it would be a known one.
SPELLINGS: Final[dict[str, tuple[Callable[[AnyKey], str], str]]] = {
    "base64": (lambda key: base64_of(public(key)), "with nothing before"),
    "base64 in lines": (
        lambda key: base64.encodebytes(public(key)).decode(),
        "with nothing before",
    ),
    "base64 for addresses": (
        lambda key: base64.urlsafe_b64encode(public(key)).decode().rstrip("="),
        "with nothing before",
    ),
    "digits": (lambda key: public(key).hex(), "with nothing before"),
    "after its name": (
        lambda key: f"key: {public(key, Encoding.PEM).decode()}",
        "with nothing before",
    ),
    "in quotes": (
        lambda key: json.dumps(public(key, Encoding.PEM).decode()),
        "must not be in quotes, .* keep; leave them out",
    ),
    "pem in base64": (lambda key: base64_of(public(key, Encoding.PEM)), "decode it"),
    "ssh": (
        lambda key: key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        "ssh-keygen -e -m PKCS8",
    ),
    "jwk": (jwk, "set JWT_JWKS_URL"),
    "jwks": (lambda key: json.dumps({"keys": [json.loads(jwk(key))]}), "set JWT_JWKS_URL"),
    "keys": (lambda key: json.dumps([json.loads(jwk(key))]), "set JWT_JWKS_URL"),
    "x5c": (
        lambda key: json.dumps([base64_of(certificate(key, Encoding.DER))]),
        "set JWT_JWKS_URL",
    ),
    "certificate": (lambda key: certificate(key, Encoding.PEM).decode(), "openssl x509 -pubkey"),
    "certificate in base64": (
        lambda key: base64_of(certificate(key, Encoding.DER)),
        "openssl x509 -pubkey",
    ),
    "private": (
        lambda key: private(key, PrivateFormat.PKCS8, Encoding.PEM).decode(),
        "openssl pkey -pubout",
    ),
    "private in base64": (
        lambda key: base64_of(private(key, PrivateFormat.PKCS8)),
        "openssl pkey -pubout",
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("make", [rsa_key, lambda: ec_key("a"), lambda: ec_key("p384"), ed_key])
def test_a_key_in_another_spelling_is_no_secret(make: Callable[[], AnyKey], spelling: str) -> None:
    """Otherwise anyone with the public key could sign tokens with its text (RFC 8725, 2.1)."""
    spell, way_out = SPELLINGS[spelling]
    text = spell(make())

    with pytest.raises(ValidationError, match=way_out) as error:
        stack_settings(jwt_key=text, jwt_algorithms=["HS256"])
    if not spelling.startswith("private"):
        with pytest.raises(ValueError, match="must"):
            check_secret(text)

    assert text not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        f'"{SECRET}"',
        f" '{SECRET}'\n",
        "${JWT_KEY_OF_THE_ORDERS_OF_THE_SHOP}",
        "$(openssl rand -hex 32 | tr -d a)",
        "<a long random key of your service>",
        "{{ vault.orders.production.jwt_key }}",
        "vault://orders/production/keys/jwt",
        "arn:aws:secretsmanager:eu-west-1:1:secret:jwt",
        "https://id.company.com/realms/orders/keys",
        "@Microsoft.KeyVault(VaultName=orders;SecretName=jwt-key)",
        "@Microsoft.KeyVault(SecretUri=https://orders.vault.azure.net/secrets/jwt/)",
        "vault:secret/data/orders/production#JWT_KEY",
        "{{resolve:secretsmanager:/prod/orders/jwt:SecretString:key}}",
        "projects/1234567/secrets/orders-jwt/versions/latest",
        "/run/secrets/of-the-orders-of-the-shop/jwt_key",
        "#{JWT_KEY_OF_THE_ORDERS_OF_THE_SHOP}#",
        "%JWT_KEY_OF_THE_ORDERS_OF_THE_SHOP%",
        "__JWT_KEY_OF_THE_ORDERS_OF_THE_SHOP__",
        "$JWT_KEY_2_OF_THE_ORDERS_OF_THE_SHOP\n",
        "{{ .Values.orders.jwt.key | quote }}",
        "${{ secrets.JWT_KEY_OF_THE_ORDERS }}",
        __file__,
    ],
)
def test_the_name_of_a_secret_is_no_secret(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_secret(text)
    with pytest.raises(ValidationError, match="must"):
        stack_settings(jwt_key=text, jwt_algorithms=["HS256"])


@pytest.mark.parametrize(
    "text",
    [
        base64_of(hashlib.sha512(b"tokens").digest()),
        f"MII{SECRET}",
        f"$AB{SECRET}<x>",
        f'{{"key": "{SECRET}"}}',
        "".join(str(ord(letter)) for letter in SECRET),
        f'"{SECRET}',
        f"/{base64_of(hashlib.sha512(b'tokens').digest())}",
        "correct horse/battery: staple, gloomy onion",
        f"{SECRET}__${{X}}%AB%",
    ],
)
def test_a_secret_that_looks_odd_is_one(text: str) -> None:
    check_secret(text)

    assert stack_settings(jwt_key=text, jwt_algorithms=["HS256"]).jwt_key is not None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"jwt_key": "", "jwt_jwks_url": "https://id.example/keys", "jwt_algorithms": []},
            "JWT_ALGORITHMS must hold at least one, such as RS256",
        ),
        ({"jwt_key": ""}, "or JWT_JWKS_URL must be set, and not both"),
        ({"jwt_jwks_url": "https://id.example/keys"}, "must be set, and not both"),
        ({"jwt_key": "", "jwt_jwks_url": "id.example/keys"}, "must be the https address"),
        ({"jwt_key": "", "jwt_jwks_url": "http://id.example/keys"}, "must be an https address"),
        ({"jwt_key": "", "jwt_jwks_url": "http://203.0.113.7/keys"}, "must be an https address"),
        ({"jwt_key": "", "jwt_jwks_url": "file:///etc/keys"}, "must be the https address"),
        (
            {"jwt_key": "", "jwt_jwks_url": "https://id.example/keys"},
            "must not hold HS256 with JWT_JWKS_URL",
        ),
        (
            {
                "jwt_key": "",
                "jwt_jwks_url": "https://id.example/keys",
                "jwt_algorithms": ["RS256", "HS512"],
            },
            "must not hold HS256 with JWT_JWKS_URL",
        ),
        ({"jwt_key": "short"}, "must have 32 characters or more"),
        ({"jwt_key": "change-me-" * 5}, "must not be the value of an example"),
        ({"jwt_key": "x" * 40}, "must be random"),
        ({"jwt_algorithms": ["RS256"]}, "one that fits JWT_KEY: HS256"),
        ({"jwt_algorithms": ["HS512"]}, "one that fits JWT_KEY: HS256"),
        ({"jwt_algorithms": []}, "one that fits JWT_KEY: HS256"),
        ({"jwt_algorithms": ["none"]}, "Input should be 'RS256'"),
        ({"jwt_key": pem(ec_key("a"))}, "one that fits JWT_KEY: ES256"),
        *(
            ({"jwt_key": f"-----BEGIN {kind} KEY-----"}, "must be a public key in PEM")
            for kind in ("PUBLIC", "PRIVATE")
        ),
        ({"jwt_key": pem(rsa_key(1024))}, "must be a public key in PEM"),
    ],
)
def test_nonsense_is_refused_at_start(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence) as error:
        stack_settings(**{**SETTINGS, **settings})

    assert not settings.get("jwt_key") or settings["jwt_key"] not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://id.example/keys",
        "http://localhost:8080/keys",
        "http://127.0.0.1/keys",
        "http://[::1]/keys",
        "http://keycloak:8080/keys",
        "http://keycloak.auth.svc:8080/keys",
        "http://id.internal/keys",
        "http://192.168.1.5/keys",
    ],
)
def test_a_provider_in_reach_may_be_asked(url: str) -> None:
    settings = stack_settings(jwt_key="", jwt_jwks_url=url, jwt_algorithms=["RS256"])

    assert settings.jwt_jwks_url == url


def test_plain_http_to_any_name_is_said_out_loud() -> None:
    url = "http://keycloak.auth:8080/keys"
    published = {"jwt_key": "", "jwt_jwks_url": url, "jwt_algorithms": ["RS256"]}

    with pytest.raises(ValidationError, match="JWT_JWKS_INSECURE_HTTP=true allows it"):
        stack_settings(**published)

    assert stack_settings(**published, jwt_jwks_insecure_http=True).jwt_jwks_url == url


def test_the_key_is_never_shown() -> None:
    settings = stack_settings(**SETTINGS)

    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.mark.parametrize("password", ["of-no-use", "of/no/use"])
def test_a_password_in_the_address_is_never_shown(password: str) -> None:
    url = f"https://me:{password}@id.example/keys"

    with pytest.raises(ValidationError, match=r"not 'https://\*{3}@id[.]example/keys'"):
        stack_settings(jwt_key="", jwt_jwks_url=url, jwt_algorithms=["RS256"])
