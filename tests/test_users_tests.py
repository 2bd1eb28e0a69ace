"""What a service's user begins with: tests, and settings of one's own."""

from hashlib import sha256
from typing import Any, Final

import pytest

from .conftest import Render
from .support import python

SECRET: Final = sha256(b"tests").hexdigest()


def test_no_test_spends_the_limit_of_another(render: Render) -> None:
    """No test of them sends more than two; all together send more."""
    service = render(layers=["rate_limit"])

    (service / ".env.test").write_text("RATE_LIMIT=2/hour\n", "utf-8")

    done = python("pytest", "-q", "tests/test_routes.py", cwd=service)

    assert done.returncode == 0, done.stdout


JOINING: Final = """
from fastapi import FastAPI, WebSocket

def test_a_websocket_is_joined_by_its_path(client):
    async def live(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_text(websocket.headers["host"])

    client.app.add_api_websocket_route("/live", live)
    for url in ("/live", "ws://localhost/live"):
        with client.websocket_connect(url) as session:
            assert session.receive_text() == "localhost"
"""


def test_websockets_are_joined_as_fastapi_documents_it(render: Render) -> None:
    service = render(layers=["trusted_host"])
    (service / "tests/test_live.py").write_text(JOINING, "utf-8")

    done = python("pytest", "-q", "tests/test_live.py", cwd=service)

    assert done.returncode == 0, done.stdout


OWN: Final = {
    "one class": "class Settings(StackSettings): ...",
    "a class of the company": """
class CompanySettings(StackSettings): ...
class Settings(CompanySettings, env_prefix="ORDERS_"): ...
""",
    "the class of a job": """
class Settings(StackSettings, env_prefix="ORDERS_"): ...
class JobSettings(StackSettings, env_prefix="JOB_"): ...
""",
    "a variable of another name": """
class Settings(StackSettings):
    session_secret: SecretStr = Field(validation_alias="COOKIE_SECRET")
    rate_limit: str = Field("9/minute", validation_alias=AliasChoices("RATE", "QUOTA"))
""",
    "an object of the module": """
class Settings(StackSettings): ...
settings = Settings.from_environment()
""",
}
EXPORTED: Final = {
    "RATE_LIMIT": "1/minute",
    "ALLOWED_HOSTS": "api.example",
    "JWT_KEY": "short",
    "MAINTENANCE_FILE": "pyproject.toml",
    "AUTHENTICATION_REQUIRED": "false",
}
TESTS: Final = """
import os
from app import settings

def test_settings_come_from_the_file(monkeypatch):
    assert os.environ["DATABASE_URL"] == "exported"
    for name in ("settings", "Settings", "JobSettings"):
        found = getattr(settings, name, None)
        found = found.from_environment() if isinstance(found, type) else found
        assert found is None or found.allowed_hosts == ("localhost", "test.example")
    for prefix in ("", "ORDERS_"):
        monkeypatch.setenv(f"{prefix}ALLOWED_HOSTS", "own.example")
    assert settings.Settings.from_environment().allowed_hosts == ("own.example",)
"""


@pytest.mark.parametrize("own", OWN)
def test_settings_of_the_layers_come_from_the_file_of_tests_alone(own: str, render: Render) -> None:
    """Whatever the classes are called, and whatever direnv or `UV_ENV_FILE` has exported."""
    service = render(preset="everything")
    imports = "from pydantic import *\nfrom .middleware import StackSettings\n"
    (service / "app/settings.py").write_text(imports + OWN[own], "utf-8")
    prefixes = ("", "ORDERS_", "JOB_")
    hosts = "".join(f"{prefix}ALLOWED_HOSTS=localhost,test.example\n" for prefix in prefixes)
    (service / ".env.test").write_text(hosts, "utf-8")
    (service / "tests/test_own.py").write_text(TESTS, "utf-8")
    exported: dict[str, Any] = {
        prefix + name: it for prefix in prefixes for name, it in EXPORTED.items()
    }
    exported |= {"QUOTA": "1/minute", "rate_limit": "1/minute", "DATABASE_URL": "exported"}

    done = python(
        *("pytest", "-q", "-p", "no:xdist", "tests/test_routes.py", "tests/test_own.py"),
        cwd=service,
        **exported,
    )

    assert done.returncode == 0, done.stdout


PREFIXED: Final = '''"""Settings whose variables have a prefix."""

from pydantic_settings import SettingsConfigDict

from .middleware import StackSettings


class Settings(StackSettings):
    model_config = SettingsConfigDict(env_prefix="orders_")
'''


def test_a_prefix_of_variables_holds_everywhere(render: Render) -> None:
    """In the settings that tests need, and wherever a sentence or a command names a variable."""
    service = render(preset="everything")
    (service / "app/settings.py").write_text(PREFIXED, "utf-8")
    needed: dict[str, Any] = {
        "ORDERS_JWT_KEY": SECRET,
        "ORDERS_JWT_ALGORITHMS": "HS256",
        "ORDERS_SESSION_SECRET": SECRET,
        "ORDERS_RATE_LIMIT": "1/minute",
        "ORDERS_MAX_BODY_BYTES": "7",
        "ORDERS_PROBE_PATHS": "/healthz,/docs/",
        "ORDERS_IP_DENY": "127.0.0.1",
        "ORDERS_METRICS_PATH": "/healthz",
        "ORDERS_READINESS_PATH": "/nobody",
    }

    tests = python("pytest", "-q", "tests/test_routes.py", cwd=service)
    route, explained, own, stack = (
        python("app.middleware", *words, cwd=service, **needed)
        for words in (
            ["route", "/orders/1"],
            ["explain", "/healthz", "--json"],
            ["route", "/nobody"],
            ["--json"],
        )
    )

    assert tests.returncode == 0, tests.stdout
    assert "ORDERS_MAX_BODY_BYTES" in route.stdout
    assert '"name": "ORDERS_IP_DENY"' in explained.stdout
    assert '"ORDERS_PROBE_PATHS",' in explained.stdout
    assert "/nobody is ORDERS_READINESS_PATH, where" in own.stdout
    assert "ORDERS_METRICS_PATH is also the path of another route" in stack.stdout
    assert "ORDERS_PROBE_PATHS must hold paths as the routes have them" in stack.stdout
