"""Security headers: every response has them."""

import base64
import hashlib
import re
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import HTMLResponse
from starlette.routing import Host, Mount, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware import Policy, innermost

from .asgi import Dialogue
from .conftest import ProbeApp, ProbeClient
from .refusals import Answer


def decorated(answer: Answer) -> None:
    headers = answer.response.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/probe/ok", "/nowhere", "/probe/items/x", "/probe/stream"])
def test_every_answer_has_them(path: str, probe_client: ProbeClient) -> None:
    client = probe_client()

    decorated(Answer(response=client.get(path), lines=[], client=client))


def test_what_only_pages_heed_goes_out_with_pages_only(probe_client: ProbeClient) -> None:
    """A server looks at each header of each response, and JSON has no camera."""
    client = probe_client()

    page, data = client.get("/docs").headers, client.get("/probe/ok").headers

    assert page["referrer-policy"] == "no-referrer"
    assert "camera=()" in page["permissions-policy"]
    assert not {"referrer-policy", "permissions-policy"} & {*data}


@pytest.mark.parametrize("path", ["/v1/help", "/of/acme/help", "/outer/inner/help", "/host/help"])
def test_a_mounted_app_may_show_its_documentation(
    path: str, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app, mounted = probe_app(), FastAPI(docs_url="/help")
    app.mount("/v1", mounted)
    app.mount("/of/{tenant}", mounted)
    app.mount("/outer", Starlette(routes=[Mount("/inner", mounted)]))
    app.mount("/host", Router([Host("{any}", mounted)]))

    page = probe_client(app=app).get(path, headers={"Accept-Encoding": "gzip"})

    assert "'sha256-" in page.headers["content-security-policy"]


def test_a_page_of_a_mounted_app_keeps_the_strict_policy(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """Where it has no route, the app itself is what was routed to."""
    app, mounted = probe_app(), FastAPI()
    app.mount("/v1", mounted)
    mounted.add_exception_handler(404, lambda *_: HTMLResponse("<p>Nothing.</p>", 404))

    page = probe_client(app=app).get("/v1/nothing")

    assert page.status_code == 404
    assert "'sha256-" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("page", ["docs", "redoc"])
@pytest.mark.parametrize(
    ("tenant", "is_plain"),
    [
        ("a-1._~", True),
        ("a',x:document.title=1,y:'", False),
        ('a"><script src=https:\\\\evil.example>', False),
        ("a&lt;b", False),
        ("a\n", False),
    ],
)
def test_a_page_whose_path_could_bring_a_script_keeps_the_strict_policy(
    page: str, tenant: str, *, is_plain: bool, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """FastAPI writes the path of the mount, as it was requested, into its pages."""
    app = probe_app()
    app.mount("/t/{tenant}", FastAPI())

    response = probe_client(app=app).get(f"/t/{quote(tenant, safe='')}/{page}")

    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert ("cdn.jsdelivr.net" in policy) is is_plain
    assert ("script-src" in policy) is is_plain


def test_hsts_goes_out_over_https_only(probe_client: ProbeClient) -> None:
    """Over http anybody could have put it there (RFC 6797, 7.2)."""
    over_https = probe_client(base_url="https://localhost").get("/probe/ok")
    over_http = probe_client().get("/probe/ok")

    assert over_https.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    assert "strict-transport-security" not in over_http.headers


def test_what_an_endpoint_sets_is_kept(probe_client: ProbeClient) -> None:
    response = probe_client().get("/probe/headers?name=X-Frame-Options&value=SAMEORIGIN")

    assert response.headers.get_list("x-frame-options") == ["SAMEORIGIN"]


def test_each_policy_is_a_setting(probe_client: ProbeClient) -> None:
    client = probe_client(
        base_url="https://localhost", referrer_policy="same-origin", hsts_max_age=60
    )

    response = client.get("/docs")

    assert response.headers["referrer-policy"] == "same-origin"
    assert response.headers["strict-transport-security"].startswith("max-age=60;")


@pytest.mark.parametrize("root_path", ["", "/api"])
@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect"])
def test_the_documentation_may_run_its_one_script(
    path: str, root_path: str, probe_client: ProbeClient
) -> None:
    """Revalidated too: a 304 replaces the policy of the page that the browser kept."""
    client, headers = probe_client(root_path=root_path), {"Accept-Encoding": "gzip"}
    response = client.get(root_path + path, headers=headers)
    others = [
        client.get(root_path + path, headers={**headers, "If-None-Match": "*"}),
        client.head(root_path + path, headers=headers),
    ]

    policy = response.headers["content-security-policy"]
    assert [other.headers["content-security-policy"] for other in others] == [policy] * 2
    (script,) = re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    script_sources = re.findall(r"script-src ([^;]*)", policy)
    assert "'unsafe-inline'" not in policy
    assert len(script_sources) == 1
    assert "form-action 'none'" in policy


async def untouched(request: Any, call_next: Any) -> Any:
    return await call_next(request)


def test_the_documentation_may_come_in_pieces(probe_app: ProbeApp) -> None:
    """A layer of Starlette's base class makes a stream of every answer."""
    own = [innermost(Middleware(BaseHTTPMiddleware, dispatch=untouched))]

    dialogue = Dialogue("GET", "/docs").run(probe_app(own=own))

    assert dialogue.status == 200
    assert "'sha256-" in dialogue.headers["content-security-policy"]
    assert dialogue.body.count(b"</html>") == 1


class Announcing:
    """A layer that sends a message ahead of each answer, as templates do to a test client."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.debug", "info": {}})
        await self.app(scope, receive, send)


def test_the_documentation_may_be_announced(probe_app: ProbeApp) -> None:
    dialogue = Dialogue("GET", "/docs").run(probe_app(own=[innermost(Middleware(Announcing))]))

    assert dialogue.status == 200
    assert "'sha256-" in dialogue.headers["content-security-policy"]


def test_redoc_may_load_from_its_network(probe_client: ProbeClient) -> None:
    response = probe_client().get("/redoc")

    policy = response.headers["content-security-policy"]
    (script,) = re.findall(r'<script src="([^"]*)"', response.text)
    assert script in policy.partition("script-src ")[2].split()
    assert "https://cdn.jsdelivr.net/npm/" not in policy.split()
    assert "style-src 'unsafe-inline' " in policy


def test_a_route_has_a_policy_of_its_own(probe_client: ProbeClient) -> None:
    policy = Policy(
        content_security_policy="default-src 'self'", cross_origin_resource_policy="cross-origin"
    )
    client = probe_client(routes={"GET /probe/ok": policy})
    page, other = client.get("/probe/ok"), client.get("/probe/state")

    assert page.headers["content-security-policy"] == "default-src 'self'"
    assert page.headers["cross-origin-resource-policy"] == "cross-origin"
    assert other.headers["content-security-policy"] != "default-src 'self'"
    assert other.headers["cross-origin-resource-policy"] != "cross-origin"


@pytest.mark.parametrize(
    ("entry", "wins"), [("/docs", True), ("GET /docs", True), ("/*", False), ("GET /*", False)]
)
def test_a_policy_for_the_documentation_alone_wins(
    entry: str, *, wins: bool, probe_client: ProbeClient
) -> None:
    mine = "default-src 'self' https://unpkg.com"
    client = probe_client(routes={entry: Policy(content_security_policy=mine)})

    assert (client.get("/docs").headers["content-security-policy"] == mine) is wins
    assert client.get("/redoc").headers["content-security-policy"] != mine
