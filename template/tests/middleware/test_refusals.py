"""The matrix: every refusal is decorated by every layer that decorates answers."""

from importlib import import_module
from types import ModuleType
from typing import Any, Final

import pytest
from starlette.testclient import WebSocketDenialResponse

from app.middleware.order import LAYERS

from .conftest import LogLines, ProbeClient
from .refusals import ORIGIN, Answer, Refusal

_TESTS: Final[dict[str, ModuleType]] = {
    name: import_module(f".test_{name}", __package__) for name in LAYERS
}
_REFUSALS: Final[dict[str, Refusal]] = {
    name: module.REFUSAL for name, module in _TESTS.items() if hasattr(module, "REFUSAL")
}
_DECORATORS: Final[dict[str, ModuleType]] = {
    name: module for name, module in _TESTS.items() if hasattr(module, "decorated")
}
_SETTINGS: Final[dict[str, Any]] = {
    key: value
    for module in _TESTS.values()
    for key, value in getattr(module, "SETTINGS", {}).items()
}


def _refused(refusal: Refusal, probe_client: ProbeClient, log_lines: LogLines) -> Answer:
    client = probe_client(
        base_url=refusal.base_url,
        client_host=refusal.client_host,
        **{**_SETTINGS, **refusal.settings},
    )
    if refusal.prepare is not None:
        refusal.prepare(client)
    log_lines()
    response = client.request(
        refusal.method,
        refusal.path,
        headers={"Origin": ORIGIN, **refusal.headers},
        **refusal.request,
    )
    return Answer(response=response, lines=log_lines(), client=client)


@pytest.mark.parametrize("name", _REFUSALS)
def test_a_refusal_has_the_one_shape(
    name: str, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    refusal = _REFUSALS[name]

    response = _refused(refusal, probe_client, log_lines).response

    assert response.status_code == refusal.status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == refusal.status
    assert problem["layer"] == name
    assert {"type", "title", "detail"} <= problem.keys()
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", _REFUSALS)
@pytest.mark.parametrize("decorator", _DECORATORS)
def test_a_refusal_is_decorated(
    decorator: str, name: str, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    """A page must be able to read it, an operator to find it, a browser to distrust it."""
    answer = _refused(_REFUSALS[name], probe_client, log_lines)

    assert answer.response.status_code == _REFUSALS[name].status
    _DECORATORS[decorator].decorated(answer)


@pytest.mark.parametrize("name", [name for name in _REFUSALS if _REFUSALS[name].websocket])
def test_a_websocket_is_refused_alike(name: str, probe_client: ProbeClient) -> None:
    """What is shut for HTTP is not open for websockets."""
    refusal = _REFUSALS[name]
    client = probe_client(
        base_url=refusal.base_url,
        client_host=refusal.client_host,
        **{**_SETTINGS, **refusal.settings},
    )
    if refusal.prepare is not None:
        refusal.prepare(client)

    with (
        pytest.raises(WebSocketDenialResponse) as denial,
        client.websocket_connect(
            refusal.base_url.replace("http", "ws") + "/probe/ws", headers=dict(refusal.headers)
        ),
    ):
        pass

    assert denial.value.status_code == refusal.status
    assert denial.value.json()["layer"] == name
