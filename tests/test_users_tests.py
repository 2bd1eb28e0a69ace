"""What a service's user begins with: tests, and settings of one's own."""

from hashlib import sha256
from typing import Any, Final

from .conftest import Render
from .support import python

SECRET: Final = sha256(b"tests").hexdigest()


def test_no_test_spends_the_limit_of_another(render: Render) -> None:
    """No test of them sends more than two; all together send more."""
    service = render(layers=["rate_limit"])

    done = python("pytest", "-q", "tests/test_routes.py", cwd=service, RATE_LIMIT="2/hour")

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
