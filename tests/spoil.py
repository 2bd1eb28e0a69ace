"""
Run tests of a rendered service with its stack spoilt: a script, started inside of the service.

Reads a JSON list of `{"verb", "layer", "neighbour", "tests"}` from standard input and prints a
JSON list of pytest's exit statuses. `lower` puts a layer directly inside of its neighbour, `raise`
directly outside, `remove` takes it out, `keep` leaves all as it is. The check at start-up has
no rules meanwhile, so that only a test of behaviour can notice. Each job runs in a fork of a
process that has imported the service already, which saves most of the time.
"""

import gc
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

# The plugins are those of this environment, and the slowest to import.
WITHOUT = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist"]
OPTIONS = ["-q", "-x", *WITHOUT, "-W", "ignore::pytest.PytestAssertRewriteWarning"]
CRASHED = 70  # none of pytest's own exit statuses


def spoil(verb: str, layer: str, neighbour: str) -> None:
    """Patch the service that is importable as `app`."""
    import app.middleware  # noqa: PLC0415 - the service is in the working directory
    import app.middleware.core.check  # noqa: PLC0415
    from app.middleware.order import layer_of  # noqa: PLC0415

    build_stack = app.middleware.build_stack

    def build_spoilt(*args: Any, **kwargs: Any) -> Sequence[Any]:
        stack = list(build_stack(*args, **kwargs))
        names = [layer_of(item.cls) for item in stack]
        moved = stack.pop(names.index(layer))
        if verb != "remove":
            names.remove(layer)
            stack.insert(names.index(neighbour) + (verb == "lower"), moved)
        return stack

    app.middleware.build_stack = build_spoilt
    app.middleware.core.check.RULES = ()


def run(job: dict[str, Any]) -> int:
    """Return pytest's exit status for `job`, run in a fork."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    log = os.open(os.environ["SPOIL_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = CRASHED
    try:
        if job["verb"] != "keep":
            spoil(job["verb"], job["layer"], job["neighbour"])
        tests = [f"tests/middleware/{test}" for test in job["tests"]]
        # A folder of its own: runs that share one trip over what another takes away.
        folder = f"{os.environ['SPOIL_LOG']}.{os.getpid()}"
        status = int(pytest.main([*OPTIONS, f"--basetemp={folder}", *tests]))
    finally:
        # Not sys.exit: the child must not go on as a second copy of the parent.
        os._exit(status)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    import_module("tests.middleware.conftest")  # with the service, once for all forks
    gc.freeze()  # pytest collects at the end of each job
    json.dump([run(job) for job in json.load(sys.stdin)], sys.stdout)
