"""The driver against plain ASGI classes: a property test that runs in a rendered service."""

import shutil

from .conftest import Render
from .support import TESTS, python


def test_the_driver_does_what_an_onion_does(render: Render) -> None:
    service = render(preset="minimal")
    test = service / "tests/middleware/core/test_onion.py"
    shutil.copy2(TESTS / "driver/test_onion.py", test)

    done = python("pytest", "-q", "-p", "no:cacheprovider", test, cwd=service)

    assert done.returncode == 0, done.stdout
