"""CORS: pages of the listed origins can call the service and read every response."""

import re
from importlib import import_module
from typing import Any, Final

import pytest
from httpx2 import Response
from pydantic import ValidationError

from app.middleware import Policy, StackSettings, stack_options
from app.middleware.order import LAYERS

from .conftest import LogLines, ProbeClient, stack_settings
from .refusals import ORIGIN, Answer

SETTINGS: Final[dict[str, Any]] = {"cors_allow_origins": [ORIGIN], "cors_allow_credentials": True}

# The headers that layers read and set. The authentication scheme follows from its setting.
READ: Final = {
    "api_key_header": ["X-API-Key"],
    "conditional": ["If-None-Match"],
    "idempotency": ["Idempotency-Key"],
    "jwt_key": ["Authorization"],
    "request_id": ["X-Request-ID"],
    "tracing": ["baggage", "traceparent", "tracestate"],
}
SET: Final = {
    "authentication": ["WWW-Authenticate"],
    "conditional": ["ETag"],
    "idempotency": ["Idempotency-Replayed", "Retry-After"],
    "maintenance": ["Retry-After"],
    "rate_limit": ["RateLimit", "RateLimit-Policy", "Retry-After"],
    "request_id": ["X-Request-ID"],
    "timing": ["Server-Timing", "X-Process-Time"],
    "user_rate_limit": ["RateLimit", "RateLimit-Policy", "Retry-After"],
}


def of_those_here(headers: dict[str, list[str]]) -> list[str]:
    here = {*LAYERS, *StackSettings.model_fields}
    return sorted({name for source in headers if source in here for name in headers[source]})


def decorated(answer: Answer) -> None:
    assert answer.response.headers["access-control-allow-origin"] == ORIGIN
    assert answer.response.headers["access-control-allow-credentials"] == "true"
    assert "Origin" in answer.response.headers["vary"]


def preflight(probe_client: ProbeClient, origin: str = ORIGIN, **headers: str) -> Response:
    return probe_client(**SETTINGS).options(
        "/probe/items",
        headers={"Origin": origin, "Access-Control-Request-Method": "POST", **headers},
    )


def test_a_listed_origin_can_read(probe_client: ProbeClient, log_lines: LogLines) -> None:
    client = probe_client(**SETTINGS)

    response = client.get("/probe/ok", headers={"Origin": ORIGIN})

    assert response.status_code == 200
    decorated(Answer(response=response, lines=log_lines(), client=client))


def test_a_foreign_origin_can_not(probe_client: ProbeClient) -> None:
    response = probe_client(**SETTINGS).get("/probe/ok", headers={"Origin": "https://evil.example"})

    assert "access-control-allow-origin" not in response.headers


def test_a_preflight_is_answered(probe_client: ProbeClient) -> None:
    response = preflight(probe_client)

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in response.headers["access-control-allow-methods"]


def test_a_foreign_preflight_is_refused(probe_client: ProbeClient, log_lines: LogLines) -> None:
    response = preflight(probe_client, "https://evil.example")

    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers
    if "access_log" in LAYERS:
        (line,) = (line for line in log_lines() if line["event"] == "request")
        assert (line["refused_by"], line["reason"]) == ("cors", "Disallowed CORS origin")


@pytest.mark.parametrize(
    "decorator",
    [
        name
        for name in ("request_id", "access_log", "metrics", "timing", "security_headers")
        if name in LAYERS
    ],
)
def test_a_preflight_is_decorated(
    decorator: str, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    client = probe_client(**SETTINGS)
    log_lines()

    response = client.options(
        "/probe/items", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    )

    assert response.status_code == 200
    answer = Answer(response=response, lines=log_lines(), client=client)
    import_module(f".test_{decorator}", __package__).decorated(answer)


@pytest.mark.parametrize("second", [ORIGIN, "https://evil.example"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
@pytest.mark.parametrize("settings", [SETTINGS, {"cors_allow_origins": ["*"]}])
def test_a_doubled_origin_is_not_trusted(
    settings: dict[str, Any], method: str, second: str, probe_client: ProbeClient
) -> None:
    """Two readers could each use another one; it passes as an ordinary OPTIONS, to the 405."""
    headers = [("Origin", ORIGIN), ("Origin", second), ("Access-Control-Request-Method", "PUT")]

    response = probe_client(**settings).request(method, "/probe/ok", headers=headers)

    assert response.status_code == (405 if method == "OPTIONS" else 200)
    assert not [name for name in response.headers if name.startswith("access-control-")]
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ("https://App2.example", "https://app2.example"),
        ("HTTPS://app.example:8443", "https://app.example:8443"),
        ("https://a.example:443", "https://a.example"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("http://[::80]", "http://[::80]"),
    ],
)
def test_an_origin_may_be_listed_as_people_write_it(
    listed: str, sent: str, probe_client: ProbeClient
) -> None:
    """Browsers send lower case, without the default port."""
    client = probe_client(cors_allow_origins=listed)

    response = client.get("/probe/ok", headers={"Origin": sent})

    assert response.headers["access-control-allow-origin"] == sent


def test_a_star_is_answered_as_it_is(probe_client: ProbeClient) -> None:
    """One response for all origins, so that caches can store it."""
    response = probe_client(cors_allow_origins="*").get("/probe/ok", headers={"Origin": ORIGIN})

    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("name", of_those_here(READ))
def test_pages_may_send_what_the_layers_read(name: str, probe_client: ProbeClient) -> None:
    """The setting is empty here, since its default allows some of them too."""
    client = probe_client(cors_allow_origins=ORIGIN, cors_allow_headers="")

    response = client.options(
        "/probe/ok",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": name.lower(),
        },
    )

    assert response.status_code == 200


@pytest.mark.parametrize("name", of_those_here(SET))
def test_pages_may_read_what_the_layers_set(name: str, probe_client: ProbeClient) -> None:
    response = probe_client(**SETTINGS).get("/probe/ok", headers={"Origin": ORIGIN})

    assert name in response.headers["access-control-expose-headers"].split(", ")


def test_pages_may_read_the_headers_that_the_setting_names(probe_client: ProbeClient) -> None:
    client = probe_client(**SETTINGS, cors_expose_headers=["X-Total-Count"])

    response = client.get("/probe/ok", headers={"Origin": ORIGIN})

    assert "X-Total-Count" in response.headers["access-control-expose-headers"].split(", ")


@pytest.mark.parametrize("origin", [ORIGIN, "https://evil.example"])
@pytest.mark.parametrize("theirs", ["X-Mine", "x-total-count,X-Mine", "X-Mine, *"])
def test_an_endpoint_exposes_headers_of_its_own_too(
    theirs: str, origin: str, probe_client: ProbeClient
) -> None:
    client = probe_client(**SETTINGS, cors_expose_headers=["X-Total-Count"])
    query = {"name": "Access-Control-Expose-Headers", "value": theirs}

    response = client.get("/probe/headers", params=query, headers={"Origin": origin})

    (found,) = response.headers.get_list("access-control-expose-headers")
    names = [name.strip() for name in found.lower().split(",")]
    assert len(names) == len({*names})
    assert {"x-mine", "x-total-count"} <= {*names}


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": ORIGIN}, {"Access-Control-Request-Method": "PUT"}]
)
def test_an_options_that_is_no_preflight_goes_on(
    headers: dict[str, str], probe_client: ProbeClient
) -> None:
    response = probe_client(**SETTINGS).options("/probe/ok", headers=headers)

    assert response.status_code == 405
    assert ("access-control-allow-origin" in response.headers) == ("Origin" in headers)


def test_only_options_is_a_preflight(probe_client: ProbeClient) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}

    response = probe_client(**SETTINGS).get("/probe/ok", headers=headers)

    assert response.json() == {"ok": "yes"}


def test_what_else_the_answer_varies_by_is_kept(probe_client: ProbeClient) -> None:
    response = probe_client(**SETTINGS).get("/probe/varied", headers={"Origin": ORIGIN})

    assert {"Accept-Language", "Origin"} <= {*response.headers["vary"].split(", ")}


def test_a_regular_expression_admits_whole_origins(probe_client: ProbeClient) -> None:
    client = probe_client(cors_allow_origin_regex=r"https://[a-z]+\.app\.example")

    good = client.get("/probe/ok", headers={"Origin": "https://eu.app.example"})
    evil = client.get("/probe/ok", headers={"Origin": "https://eu.app.example.evil.com"})

    assert good.headers["access-control-allow-origin"] == "https://eu.app.example"
    assert "access-control-allow-origin" not in evil.headers


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"cors_allow_origins": ["https://app.example/"]}, "write 'https://app.example'"),
        ({"cors_allow_origins": ["https://app.example/path"]}, "write 'https://app.example'"),
        ({"cors_allow_origins": ["https://*.app.example"]}, "use CORS_ALLOW_ORIGIN_REGEX"),
        ({"cors_allow_origins": ["app.example"]}, "write it like"),
        ({"cors_allow_origins": ["null"]}, "sandboxed page"),
        ({"cors_allow_origins": ["https://app.example:99999"]}, "its port is above 65535"),
        ({"cors_allow_origins": ["https://[:]"]}, "or its address is invalid"),
        ({"cors_allow_origin_regex": "("}, "must be a regular expression"),
        ({"cors_allow_origins": ["*"], "cors_allow_credentials": True}, "list the origins"),
    ],
)
def test_nonsense_is_refused_at_start(settings: dict[str, Any], sentence: str) -> None:
    """Starlette accepts each of these in silence; then no page, or every page, gets in."""
    with pytest.raises(ValidationError, match=sentence):
        stack_settings(**settings)


@pytest.mark.parametrize(
    ("regex", "stranger"),
    [
        # Nothing, or only an end that many share, is spelled out.
        ("https?://.*", "http://evil.xyz"),
        (r"https://\S+", "https://evil.xyz"),
        ("https?://.+:[0-9]+", "http://evil.xyz:1"),
        ("[a-z]+://.*", "https://evil.xyz"),
        (r"https://[a-z0-9-]+\.[a-z]+", "https://xyz.xyz"),
        (r"https://([a-z]+\.?)+", "https://evil.xyz"),
        (r"https://[a-z]+\.com", "https://xyz.com"),
        (r"https://(?!evil)[a-z]+\.com", "https://xyz.com"),
        (r"https://.+\.(com|net)", "https://evil.xyz.com"),
        (r"http://[a-z]+\.co\.uk:3\d{3}", "http://xyz.co.uk:3111"),
        (r"https://[a-z0-9-]+\.vercel\.app", "https://xyz.vercel.app"),
        (r"https://(app|[a-z]+)\.example", "https://xyz.example"),
        (r"https?://\d+\.\d+\.\d+\.\d+(:\d+)?", "http://1.1.1.1"),
        # The end is free.
        (r"https://app\.example\.com.*", "https://app.example.comevil.xyz"),
        (r"https://app\.example(.*)", "https://app.exampleevil.xyz"),
        (r"https://app\.example\..*", "https://app.example.evil.xyz"),
        (r"https://app\.example\.[a-z]+", "https://app.example.xyz"),
        (r"https://app\.example\.[a-z]{2}", "https://app.example.io"),
        ("https://myapp-.*", "https://myapp-evil.xyz"),
        ("https://.*app.*", "https://evil.xyzappevil.xyz"),
        ("http://localhost.*", "http://localhostevil.xyz"),
        (r"http://192\.168\..*", "http://192.168.evil.xyz"),
        # The beginning of the name is free.
        (r"https://[a-z0-9-]*app\.example", "https://xyzapp.example"),
        (r"(?i:https://[A-Z]*App[.]example)(:\d+)?", "https://xyzapp.example"),
        (r"https://.*[.-]app\.example", "https://evil.xyz-app.example"),
        (r"https://app-[a-z]+shop\.example", "https://app-xyzshop.example"),
        (r"https://app[0-9]\.example", "https://app1.example"),
        # A dot is any character.
        ("https://www.app.com", "https://wwwxapp.com"),
        (r"https://www\.app\.example.com", "https://www.app.examplexcom"),
        # One alternative is enough.
        (r"https://[a-z]+\.app\.example|null", "null"),
        (r"https://app\.example|https://.*", "https://evil.xyz"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "^{}$", "^({})$"])
def test_a_regular_expression_that_shares_credentials_with_strangers_is_refused(
    form: str, regex: str, stranger: str
) -> None:
    regex = form.format(regex)

    with pytest.raises(ValidationError, match=f"must not allow {re.escape(stranger)}, which"):
        stack_settings(cors_allow_origin_regex=regex, cors_allow_credentials=True)

    assert re.fullmatch(regex, stranger)


@pytest.mark.parametrize("port", ["", r"(:\d{2,5})?"])
@pytest.mark.parametrize(
    "inner", ["", r"([a-z0-9-]+\.)?", r"([a-z0-9-]+\.)*", r".*\.", r"pr-\d+\."]
)
@pytest.mark.parametrize(
    "name",
    [
        r"app\.example",
        r"(www|shop)\.(app|onion)\.co\.uk",
        r"app\.(example|sample)[.]com",
        r"app[12]\.example",
        r"[a-z0-9-]+--myapp\.netlify\.app",
        r"myapp-[a-z0-9-]+-team\.vercel\.app",
        r"[a-z]+\.internal",
    ],
)
def test_a_regular_expression_of_own_names_may_share_credentials(
    name: str, inner: str, port: str
) -> None:
    regex = f"^https?://{inner}{name}{port}$"

    stack_settings(cors_allow_origin_regex=regex, cors_allow_credentials=True)


@pytest.mark.parametrize(
    "regex",
    [
        "^http://[a-z]+:3000$",
        r"^https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{2,5})?$",
        r"^http://192\.168\.[0-9]+\.[0-9]+(:[0-9]+)?$",
        r"^(https://app\.example|https://.*\.app\.example)$",
        r"^https://app\.example$|^https://.*\.app\.example:.*$",
        "^chrome-extension://[a-p]{32}$",
    ],
)
def test_a_regular_expression_of_what_nobody_can_register_may_share_credentials(
    regex: str,
) -> None:
    stack_settings(cors_allow_origin_regex=regex, cors_allow_credentials=True)


def test_a_regular_expression_may_share_credentials_with_those_it_names(
    probe_client: ProbeClient,
) -> None:
    client = probe_client(
        cors_allow_origin_regex=r"^https://(app|shop)\.example$", cors_allow_credentials=True
    )

    response = client.get("/probe/ok", headers={"Origin": ORIGIN})

    assert response.headers["access-control-allow-credentials"] == "true"


def test_a_route_has_origins_of_its_own(probe_client: ProbeClient) -> None:
    routes = {"POST /probe/items": Policy(cors_allow_origins=["*"], cors_allow_credentials=False)}
    client = probe_client(**SETTINGS, routes=routes)
    anyone = {"Origin": "https://any.example"}
    asks = {name: {**anyone, "Access-Control-Request-Method": name} for name in ("GET", "POST")}

    answer = client.post("/probe/items", json={"name": "onion"}, headers=anyone)

    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert client.options("/probe/items", headers=asks["POST"]).status_code == 200
    assert client.options("/probe/items", headers=asks["GET"]).status_code == 400
    others = client.get("/probe/ok", headers=anyone)
    assert "access-control-allow-origin" not in others.headers


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (Policy(), [ORIGIN, "https://pr-1.preview.example"]),
        (Policy(cors_allow_origins=[]), []),
        (Policy(cors_allow_origins=["https://admin.example"]), ["https://admin.example"]),
        (
            Policy(cors_allow_origin_regex="^https://[a-z]+[.]any[.]other$"),
            ["https://eu.any.other"],
        ),
        (
            Policy(
                cors_allow_origins=["https://admin.example"],
                cors_allow_origin_regex="^https://[a-z]+[.]any[.]other$",
            ),
            ["https://admin.example", "https://eu.any.other"],
        ),
    ],
)
def test_a_route_has_neither_list_nor_pattern_of_the_service(
    policy: Policy, allowed: list[str], probe_client: ProbeClient
) -> None:
    pattern = "^https://[a-z0-9-]+[.]preview[.]example$"
    client = probe_client(
        **SETTINGS, cors_allow_origin_regex=pattern, routes={"/probe/items": policy}
    )
    names = "pr-1.preview.example", "admin.example", "eu.any.other"

    for origin in (ORIGIN, *(f"https://{name}" for name in names)):
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        preflight = client.options("/probe/items", headers=asks)
        response = client.post("/probe/items", json={}, headers={"Origin": origin})
        assert (preflight.status_code == 200) == (origin in allowed)
        assert ("access-control-allow-origin" in response.headers) == (origin in allowed)


def test_a_route_shares_no_credentials_with_everybody(capsys: pytest.CaptureFixture[str]) -> None:
    routes = {"/*": Policy(cors_allow_origins=["*"])}

    with pytest.raises(SystemExit):
        stack_options(stack_settings(**SETTINGS), routes=routes)

    told = capsys.readouterr().err
    assert "CORS_ALLOW_ORIGINS must not be '*' with CORS_ALLOW_CREDENTIALS" in told
