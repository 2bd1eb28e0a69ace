"""Demo: each key of the entry does what it says."""

import pytest
from pydantic import ValidationError

from app.middleware.onion_demo import DemoError

from .conftest import ProbeApp, ProbeClient, stack_settings
from .refusals import ORIGIN, Answer, Refusal

REFUSAL = Refusal(status=418, headers={"X-Demo": "refuse"}, websocket=False)
SETTINGS = {"cors_allow_origins": [ORIGIN]}


def decorated(answer: Answer) -> None:
    assert answer.response.status_code


def test_it_sets_its_headers(probe_client: ProbeClient) -> None:
    response = probe_client(demo_header="X-Other").get("/probe/ok")

    assert response.headers["x-other"] == "/demo-redis"
    assert response.headers["x-demo-fixed"] == "yes"


def test_what_it_sets_is_exposed_and_what_it_reads_allowed(probe_client: ProbeClient) -> None:
    client = probe_client(demo_header="X-Other", cors_allow_origins=[ORIGIN])

    exposed = client.get("/probe/ok", headers={"Origin": ORIGIN})
    preflight = client.options(
        "/probe/ok",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "x-other",
        },
    )

    assert exposed.headers["access-control-expose-headers"] == "X-Other, X-Demo-Fixed"
    assert preflight.status_code == 200


def test_it_has_a_route(probe_client: ProbeClient) -> None:
    assert probe_client(demo_path="/elsewhere").get("/elsewhere").text == "demo"


def test_its_exceptions_are_answered(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app()

    @app.get("/raise")
    async def raise_demo() -> None:
        raise DemoError

    assert probe_client(app=app).get("/raise").json() == {"demo": "error"}


def test_an_error_is_answered(probe_client: ProbeClient) -> None:
    assert probe_client().get("/probe/boom").status_code == 500


def test_openapi_declares_its_answers(probe_app: ProbeApp) -> None:
    responses = probe_app().openapi()["paths"]["/probe/ok"]["get"]["responses"]

    assert {"409", "410", "418", "500"} <= responses.keys()


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="DEMO_HEADER must not be DEMO_PATH"):
        stack_settings(demo_header="same", demo_path="same")
