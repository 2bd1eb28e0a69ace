"""The driver against plain ASGI classes, and policies against the router, in a rendered service."""

import shutil

import pytest

from .conftest import Render
from .support import TESTS, python


def test_the_driver_does_what_an_onion_does(render: Render) -> None:
    service = render(preset="minimal")
    test = service / "tests/middleware/core/test_onion.py"
    shutil.copy2(TESTS / "driver/test_onion.py", test)

    done = python("pytest", "-q", "-p", "no:cacheprovider", test, cwd=service)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("examples", [100, pytest.param(5000, marks=pytest.mark.matrix)])
def test_the_table_of_policies_and_the_router_agree(examples: int, render: Render) -> None:
    """Each example is an app with twenty requests."""
    service = render(preset="minimal")
    test = service / "tests/middleware/core/test_fuzzed_policies.py"
    shutil.copy2(TESTS / "driver/test_policies.py", test)

    pytest_ = ("pytest", "-q", "-p", "no:cacheprovider", test)
    done = python(*pytest_, cwd=service, timeout=900, EXAMPLES=str(examples))

    assert done.returncode == 0, done.stdout
