"""The tests that a service's user begins with."""

from .conftest import Render
from .support import python


def test_no_test_spends_the_limit_of_another(render: Render) -> None:
    """No test of them sends more than two; all together send more."""
    service = render(layers=["rate_limit"])

    done = python("pytest", "-q", "tests/test_routes.py", cwd=service, RATE_LIMIT="2/hour")

    assert done.returncode == 0, done.stdout
