"""
What pages can do with a service of every layer, in a real browser.

`app` is the service's own page: its origin may read (CORS) and write (cross-origin). The origin of
`reader` may only read, that of `foreign` nothing; it is also another site, which is what decides
over cookies.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import jwt
import pytest
from copier import run_copy

from .browser import Network, Servers, Service, chromium, fetch, pages, servers_of, talk
from .support import LAYERS, TESTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KEY: Final = "a key of these tests, and of nobody else: 0123456789"
TOKEN: Final = jwt.encode({"sub": "jo", "exp": 4102444800}, KEY, algorithm="HS256")
ID: Final = "page-4711"


class Visit(Protocol):
    """Open a page of an origin, in a browser that nobody used yet, unless it is `shared`."""

    def __call__(self, origin: str, *, user_agent: str | None = ...) -> "Page": ...


@dataclass(frozen=True)
class Origins:
    app: str
    reader: str
    foreign: str


@dataclass(frozen=True)
class Case:
    """A request of a page, and the answer that the page must be able to read."""

    status: int
    layer: str = ""
    path: str = "/orders/7"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    times: int = 1
    readable: tuple[str, ...] = ()
    origin: str = "app"
    host: str = "localhost"
    user_agent: str | None = None
    # For a layer that is off in the service of the other cases: how it is switched on.
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        return "refuses" in LAYERS.get(self.layer, {})

    def __str__(self) -> str:
        return "-".join(filter(None, [str(self.status), self.layer, self.path.strip("/")]))


# What these layers set on every good answer.
EXPOSED: Final = tuple(
    name.lower()
    for layer in ("timing", "rate_limit", "conditional")
    for name in LAYERS[layer]["sets"]
    if name != "Retry-After"
)
JSON: Final = {"Content-Type": "application/json"}
CASES: Final = (
    Case(200, readable=EXPOSED),
    Case(
        201,
        path="/orders",
        method="POST",
        headers=JSON,
        body='{"item": "onion"}',
        readable=("location",),
    ),
    Case(400, "trusted_host", host="127.0.0.1"),
    Case(
        400,
        "required_headers",
        headers={"X-Environment": "staging"},
        settings={"REQUIRED_HEADERS": "X-Environment: production"},
    ),
    Case(
        401,
        "authentication",
        headers={"Authorization": "Bearer nonsense"},
        readable=("www-authenticate",),
    ),
    Case(403, "ip_filter", headers={"X-Forwarded-For": "203.0.113.9"}),
    Case(403, "cross_origin", path="/act", method="POST", origin="reader"),
    Case(404, "error_handler", path="/nowhere"),
    Case(405, "error_handler", method="DELETE"),
    Case(410, "client_version", user_agent="LegacyApp/1.2"),
    Case(413, "body_limit", path="/upload", method="POST", body="x" * 2_000),
    Case(413, "body_limit", path="/upload", method="POST", body="x" * 5_000_000),
    Case(422, "error_handler", path="/orders/abc"),
    Case(422, "error_handler", path="/orders", method="POST", headers=JSON, body="no JSON"),
    Case(
        429,
        "rate_limit",
        times=4,
        readable=("retry-after",),
        settings={"RATE_LIMIT": "3/minute"},
    ),
    Case(
        429,
        "user_rate_limit",
        headers={"Authorization": f"Bearer {TOKEN}"},
        times=4,
        readable=("retry-after",),
        settings={"USER_RATE_LIMIT": "3/hour"},
    ),
    Case(500, "error_handler", path="/boom"),
    Case(503, "maintenance", readable=("retry-after",)),
    Case(504, "timeout", path="/slow"),
)
# One for each layer that refuses, and the 500.
REFUSALS: Final = {
    case.layer: case for case in reversed(CASES) if case.refused or case.status == 500
}


def settings(origins: Origins) -> dict[str, str]:
    return {
        "ALLOWED_HOSTS": "localhost",
        "BLOCKED_CLIENTS": "LegacyApp/1.",
        "CORS_ALLOW_CREDENTIALS": "true",
        "CORS_ALLOW_HEADERS": "Authorization,Content-Type,X-Forwarded-For",
        "CORS_ALLOW_ORIGINS": f"{origins.app},{origins.reader}",
        "CORS_EXPOSE_HEADERS": "Location",
        "CORS_MAX_AGE": "0",
        "CROSS_ORIGIN_TRUSTED": origins.app,
        "IP_DENY": "203.0.113.0/24",
        "JWT_ALGORITHMS": "HS256",
        "JWT_KEY": KEY,
        "MAX_BODY_BYTES": "1000",
        "RATE_LIMIT": "1000/minute",
        "REQUEST_TIMEOUT": "2",
        "SESSION_SECRET": KEY,
    }


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def origins() -> Iterator[Origins]:
    with pages("localhost") as app, pages("localhost") as reader, pages("127.0.0.1") as foreign:
        yield Origins(app, reader, foreign)


@pytest.fixture(scope="module")
def folder(
    browser: "Browser",  # noqa: ARG001 - where there is none, nothing is rendered
    template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return rendered(template, tmp_path_factory.mktemp("browser"), preset="everything")


def rendered(template: Path, parent: Path, **answers: Any) -> Path:
    folder = parent / "service"
    run_copy(
        str(template), folder, data=answers, defaults=True, quiet=True, unsafe=False, vcs_ref="HEAD"
    )
    routes = (TESTS / "browser_routes.py").read_text("utf-8")
    (folder / "app/routes.py").write_text(routes, "utf-8")
    return folder


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[Servers]:
    with servers_of(folder) as servers:
        yield servers


@pytest.fixture(scope="module")
def service(servers: Servers, origins: Origins) -> Service:
    return servers(settings(origins))


@pytest.fixture(scope="module")
def shared(browser: "Browser") -> Visit:
    """Visit in a browser that other tests use too, for what leaves nothing behind in it."""

    @cache
    def shared(origin: str, *, user_agent: str | None = None) -> "Page":
        page = browser.new_context(user_agent=user_agent).new_page()
        page.goto(origin)
        return page

    return shared


@pytest.fixture
def visit(browser: "Browser") -> "Iterator[Visit]":
    with ExitStack() as stack:

        def visit(origin: str, *, user_agent: str | None = None) -> "Page":
            context = browser.new_context(user_agent=user_agent)
            stack.callback(context.close)
            page = context.new_page()
            page.goto(origin)
            return page

        yield visit


def ask(case: Case, service: Service, page: "Page") -> Any:
    """Let the page do what the case says; return what it can read of the last answer."""
    headers = {"X-Request-ID": ID, **case.headers}
    options = {"method": case.method, "headers": headers, "credentials": "include"}
    if case.body is not None:
        options["body"] = case.body
    url = f"http://{case.host}:{service.port}{case.path}"
    return [fetch(page, url, **options) for _ in range(case.times)][-1]


@pytest.fixture
def in_force(folder: Path, case: Case) -> Iterator[None]:
    """Switch on what no request can."""
    switch = folder / "maintenance"
    if case.layer == "maintenance":
        switch.touch()
    yield
    switch.unlink(missing_ok=True)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("in_force")
def test_a_page_reads_status_problem_and_id(
    case: Case, service: Service, servers: Servers, origins: Origins, shared: Visit
) -> None:
    """By a preflighted request with credentials: the id that it sends is a header of its own."""
    page = shared(getattr(origins, case.origin), user_agent=case.user_agent)
    if case.settings:
        service = servers({**settings(origins), **case.settings})

    answer = ask(case, service, page)

    assert answer.get("error") is None
    assert answer["status"] == case.status
    assert answer["headers"]["x-request-id"] == ID
    assert set(case.readable) <= set(answer["headers"])
    if case.status >= 400:
        problem = json.loads(answer["text"])
        assert answer["headers"]["content-type"] == "application/problem+json"
        assert problem["status"] == case.status
        assert problem["request_id"] == ID
        assert problem.get("layer") == (case.layer if case.refused else None)


def test_these_requests_are_preflighted(service: Service, origins: Origins, shared: Visit) -> None:
    """Else the test above would show less than it says."""
    page = shared(origins.app)
    path = "/orders/8"

    ask(Case(200, path=path), service, page)

    assert [line["method"] for line in service.lines(path, count=2)] == ["OPTIONS", "GET"]


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.usefixtures("in_force")
def test_a_page_reads_nothing_where_cors_stands_inside(
    case: Case, servers: Servers, origins: Origins, shared: Visit
) -> None:
    """
    The same page, the same request, the same service but for one place in the list.

    What no layer refuses, such as a probe, it still reads.
    """
    spoilt = servers({**settings(origins), **case.settings}, "lower", "cors", case.layer)
    page = shared(getattr(origins, case.origin), user_agent=case.user_agent)

    refused = ask(case, spoilt, page)
    passed = fetch(page, f"{spoilt.origin}/healthz")

    assert refused == {"error": "TypeError: Failed to fetch"}
    assert passed["status"] == 200


REQUESTS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"credentials": "include"},
    {"headers": {"X-Request-ID": ID}},  # preflighted
    {"mode": "no-cors"},
)


@pytest.mark.parametrize("path", ["/orders/7", "/nowhere", "/boom"])
def test_a_foreign_page_reads_nothing(
    path: str, service: Service, origins: Origins, shared: Visit
) -> None:
    page = shared(origins.foreign)

    answers = [fetch(page, service.origin + path, **options) for options in REQUESTS]

    assert answers == [{"error": "TypeError: Failed to fetch"}] * len(REQUESTS)


@pytest.mark.parametrize("origin", ["foreign", "reader"])
def test_only_the_own_page_changes_something(
    origin: str, service: Service, origins: Origins, shared: Visit
) -> None:
    """A body of plain text is sent without a preflight, so CORS alone doesn't stop it."""
    count = len(service.get("/visits"))
    post = {"method": "POST", "credentials": "include", "body": "plain text"}

    theirs = fetch(shared(getattr(origins, origin)), f"{service.origin}/act", **post)
    refused = len(service.get("/visits")) - count
    ours = fetch(shared(origins.app), f"{service.origin}/act", **post)

    assert theirs.get("status") == {"foreign": None, "reader": 403}[origin]
    assert refused == 0
    assert ours["status"] == 200
    assert len(service.get("/visits")) == count + 1


def test_the_own_page_opens_a_websocket(service: Service, origins: Origins, shared: Visit) -> None:
    talked = talk(shared(origins.app), service.socket)

    assert talked["answer"]["text"] == "hello"
    assert talked["code"] == 1000


@pytest.mark.parametrize("origin", ["foreign", "reader"])
def test_another_page_opens_no_websocket(
    origin: str, service: Service, origins: Origins, shared: Visit
) -> None:
    """CORS would let it: a browser opens websockets for every page."""
    talked = talk(shared(getattr(origins, origin)), service.socket)

    assert talked["answer"] is None
    assert talked["code"] == 1006


def test_a_page_authenticates_a_websocket_by_subprotocol(
    service: Service, origins: Origins, shared: Visit
) -> None:
    """A page can't set headers there."""
    page = shared(origins.app)

    talked = talk(page, service.socket, protocols=("bearer", TOKEN))
    refused = talk(page, service.socket, protocols=("bearer", "nonsense"))

    assert talked["answer"]["user"] == "jo"
    assert talked["protocol"] == "bearer"
    assert refused == {"answer": None, "code": 1006, "protocol": ""}


def log_in(page: "Page", service: Service) -> None:
    answer = fetch(page, f"{service.origin}/login?name=jo", method="POST", credentials="include")
    assert answer["status"] == 200


def test_the_session_comes_back_but_no_script_reads_it(
    service: Service, origins: Origins, visit: Visit
) -> None:
    page = visit(origins.app)
    # Cookies know no ports: this one shows that the page would see the service's as well.
    page.evaluate("document.cookie = 'visible=1'")

    log_in(page, service)
    who = fetch(page, f"{service.origin}/visit", credentials="include")
    anonymous = fetch(page, f"{service.origin}/visit")
    talked = talk(page, service.socket)

    assert page.evaluate("document.cookie") == "visible=1"
    assert json.loads(who["text"]) == {"name": "jo"}
    assert json.loads(anonymous["text"]) == {"name": None}
    assert talked["answer"]["name"] == "jo"
    cookies: list[Any] = page.context.cookies()
    (cookie,) = (cookie for cookie in cookies if cookie["name"] == "session")
    assert cookie["httpOnly"]
    assert cookie["secure"]
    assert cookie["sameSite"] == "Lax"


@pytest.fixture
def mixed(
    browser: "Browser",  # noqa: ARG001 - where there is none, nothing is rendered
    template: Path,
    tmp_path: Path,
    origins: Origins,
) -> Iterator[Service]:
    """Run a service that knows tokens, keys and sessions."""
    layers = ["cors", "error_handler", "session", "cross_origin", "authentication"]
    further = ["session", "api_key"]
    folder = rendered(template, tmp_path, layers=layers, further_schemes=further)
    with servers_of(folder) as servers:
        yield servers(
            {
                "API_KEYS": f"partner:{sha256(KEY.encode()).hexdigest()}",
                "CORS_ALLOW_CREDENTIALS": "true",
                "CORS_ALLOW_ORIGINS": origins.reader,
                "JWT_ALGORITHMS": "HS256",
                "JWT_KEY": KEY,
                "SESSION_SECRET": KEY,
            }
        )


def test_pages_come_with_a_session_a_token_or_a_key(
    mixed: Service, origins: Origins, visit: Visit
) -> None:
    """The service's own page has the session; another origin's has a credential of its own."""
    token, key = {"Authorization": f"Bearer {TOKEN}"}, {"X-API-Key": KEY}
    page = visit(f"{mixed.origin}/page")

    def ask(path: str, **options: Any) -> Any:
        return fetch(page, mixed.origin + path, **options)

    log_in(page, mixed)
    assert json.loads(ask("/me")["text"]) == {"id": "jo"}
    assert ask("/act", method="POST")["status"] == 200
    both = ask("/me", headers=token)
    assert both["status"] == 400
    assert json.loads(both["text"])["detail"].startswith("Send one credential")

    page.goto(origins.reader)
    assert ask("/act", method="POST", credentials="include")["status"] == 403
    for headers in (token, key):
        assert ask("/act", method="POST", headers=headers)["status"] == 200
        # With the session beside it, it could act for the user who is logged in.
        beside = ask("/act", method="POST", headers=headers, credentials="include")
        assert beside["status"] == 403
    wrong = ask("/me", headers={"X-API-Key": "wrong"})
    assert wrong["headers"]["www-authenticate"].startswith("ApiKey error=")


def test_another_site_does_not_make_use_of_the_session(
    service: Service, origins: Origins, visit: Visit
) -> None:
    """SameSite=Lax: the cookie goes along when a link is followed, and with nothing else."""
    page = visit(origins.app)
    log_in(page, service)
    page.goto(origins.foreign)
    count = len(service.get("/visits"))

    for mode in ("cors", "no-cors"):
        fetch(page, f"{service.origin}/visit", credentials="include", mode=mode)
    fetched = service.get("/visits")[count:]
    page.evaluate("url => { location.href = url }", f"{service.origin}/visit")
    page.wait_for_url("**/visit")

    assert fetched == [None, None]
    assert service.get("/visits")[-1] == "jo"


def test_a_form_of_another_site_does_nothing(
    service: Service, origins: Origins, visit: Visit
) -> None:
    page = visit(origins.app)
    log_in(page, service)
    page.goto(origins.foreign)
    count = len(service.get("/visits"))

    page.set_content(f"<form method=post action={service.origin}/act><button>win</button></form>")
    with page.expect_navigation() as navigation:
        page.click("button")

    assert navigation.value.status == 403
    assert len(service.get("/visits")) == count


def test_a_page_repeats_a_request_without_fear(
    service: Service, origins: Origins, shared: Visit
) -> None:
    """The key's header is allowed without being listed in the settings."""
    page = shared(origins.app)
    post = {
        "method": "POST",
        "headers": {**JSON, "Authorization": f"Bearer {TOKEN}", "Idempotency-Key": '"4711"'},
        "body": '{"item": "onion"}',
    }

    first, second = (fetch(page, f"{service.origin}/orders", **post) for _ in range(2))

    assert first["status"] == 201
    assert second["text"] == first["text"]


def test_a_page_reads_compressed_answers(service: Service, origins: Origins, shared: Visit) -> None:
    page = shared(origins.app)

    with page.expect_response("**/large") as response:
        answer = fetch(page, f"{service.origin}/large")

    assert response.value.all_headers()["content-encoding"] in {"zstd", "br", "gzip"}
    assert len(json.loads(answer["text"])) == 500


def test_a_browser_revalidates_what_it_has(
    service: Service, origins: Origins, visit: Visit
) -> None:
    """The page reads 200 and the body; over the wire goes a 304."""
    page = visit(origins.app)
    url = f"{service.origin}/orders/9"

    first, second = (fetch(page, url, cache="no-cache") for _ in range(2))

    assert second["status"] == 200
    assert second["text"] == first["text"]
    assert [line["status"] for line in service.lines("/orders/9", count=2)] == [200, 304]


@pytest.fixture(scope="module")
def network(service: Service) -> Network:
    return Network(service.read("/docs"), service.read("/redoc"))


def faults_of(page: "Page") -> list[str]:
    """Return a list that fills with violations of policies, and other faults, of a browser."""
    faults: list[str] = []

    def keep(message: Any) -> None:
        if message.type == "error" or re.search(r"(Security |Permissions-)Policy", message.text):
            faults.append(message.text)

    page.context.on("console", keep)
    page.context.on("weberror", lambda error: faults.append(str(error.error)))
    return faults


def try_out(page: "Page", operation: str, **parameters: str) -> str:
    """Let Swagger UI send the request of an operation; return what it shows of the answer."""
    block = page.locator(f"#operations-default-{operation}")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    for name, value in parameters.items():
        block.get_by_placeholder(name).fill(value)
    block.get_by_role("button", name="Execute").click()
    return block.locator(".live-responses-table .response").inner_text()


def log_in_by_token(page: "Page") -> None:
    page.locator(".auth-wrapper .authorize").first.click()
    dialog = page.locator(".modal-ux")
    dialog.locator("input").fill(TOKEN)
    dialog.locator(".authorize").click()
    dialog.locator(".btn-done").click()


def test_swagger_ui_runs_under_its_policy(
    service: Service, origins: Origins, visit: Visit, network: Network
) -> None:
    """What changes something too: its page is the service's own origin."""
    page = visit(origins.app)
    faults = faults_of(page)
    page.route(re.compile("^https:"), network.answer)
    page.goto(f"{service.origin}/docs")

    read = try_out(page, "read_order_orders__order_id__get", order_id="4711")
    created = try_out(page, "create_order_orders_post")
    log_in_by_token(page)
    user = try_out(page, "read_user_me_get")

    assert '"order_id": 4711' in read
    assert "201" in created
    assert '"id": "jo"' in user
    assert faults == []


def test_the_login_of_swagger_ui_runs_under_its_policy(
    service: Service, origins: Origins, visit: Visit
) -> None:
    """The page that an identity provider sends back to: its script calls who opened it."""
    page = visit(origins.app)
    faults = faults_of(page)
    page.goto(f"{service.origin}/healthz")

    granted = page.evaluate(
        """() => new Promise(resolve => {
            window.swaggerUIRedirectOauth2 = {
                auth: {schema: new Map([["flow", "implicit"]])},
                callback: answer => resolve(answer.token),
            };
            window.open("/docs/oauth2-redirect#access_token=abc");
        })"""
    )

    assert granted == {"access_token": "abc"}
    assert faults == []


def test_redoc_runs_under_its_policy(
    service: Service, origins: Origins, visit: Visit, network: Network
) -> None:
    page = visit(origins.app)
    faults = faults_of(page)
    page.route(re.compile("^https:"), network.answer)

    page.goto(f"{service.origin}/redoc")
    page.get_by_role("heading", name="Read Order").wait_for()
    page.get_by_role("textbox", name="Search").fill("order")
    page.locator("[data-role='search:results'] li").first.wait_for()

    assert faults == []


def test_any_other_answer_runs_nothing(service: Service, origins: Origins, visit: Visit) -> None:
    """And the watch over violations sees one."""
    page = visit(origins.app)
    faults = faults_of(page)

    page.goto(f"{service.origin}/page")

    assert page.title() == "still"
    assert "Executing inline script violates" in faults[0]


def test_no_page_frames_an_answer(service: Service, origins: Origins, visit: Visit) -> None:
    page = visit(origins.foreign)

    with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        page.set_content(f"<iframe src={service.origin}/page></iframe>")
