"""
Each preset in an environment of its own, made from its own pyproject.

With the lowest versions that it allows and with the newest, on each Python that the workflow of
this repository names; those that this machine lacks are skipped. Every run has a sample:
the newest on the newest Python, and `everything` with the lowest on the oldest. `pytest -m matrix`
runs the rest, and `api` and `browser`, whose layers `public` and `everything` have too. With the
lowest every test runs with each of its parameters.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import pytest

from .conftest import Render
from .support import ORDER, ROOT, UV, Parameters, blocks, failures, interpreter, read_yaml, run

SECONDS: Final = 60
LOWEST: Final = "lowest-direct"
NEWEST: Final = "highest"

PRESETS: Final[dict[str, dict[str, Any]]] = {
    **{preset: dict[str, Any]() for preset in ORDER["presets"]},
    "public": {"authentication_required": True},
    # All dependencies; `public` has the limits that count in memory.
    "everything": {"storage": "redis", "authentication_required": True},
}
_WORKFLOW: Final = read_yaml(ROOT / ".github/workflows/tests.yml")
PYTHONS: Final[list[str]] = _WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["python"]


def _matrix() -> Iterator[Any]:
    here = [version for version in PYTHONS if interpreter(version)]
    for preset in PRESETS:
        for version in PYTHONS:
            lowest = preset == "everything" and version in here[:1]
            newest = preset not in {"api", "browser"} and version in here[-1:]
            sample = {LOWEST: lowest, NEWEST: newest}
            for resolution in (LOWEST, NEWEST):
                marks: list[Any] = [] if sample[resolution] else [pytest.mark.matrix]
                yield pytest.param(preset, version, resolution, marks=marks)


@pytest.mark.skipif(not UV, reason="needs uv")
@pytest.mark.parametrize(("preset", "version", "resolution"), [*_matrix()])
def test_a_preset_lives_in_its_own_environment(
    preset: str, version: str, resolution: str, render: Render, tmp_path: Path
) -> None:
    """What it declares is enough: here it can borrow nothing from the other layers."""
    if not interpreter(version):
        pytest.skip(f"Python {version} is not on this machine")
    service = render(preset=preset, **PRESETS[preset])
    # The README's command resolves too, and must find what the lock has.
    environment: dict[str, Any] = {"UV_RESOLUTION": resolution, "UV_PYTHON": interpreter(version)}

    synced = run(UV, "sync", cwd=service, VIRTUAL_ENV="", **environment)

    assert synced.returncode == 0, synced.stdout
    own = service / ".venv/bin/python"
    parameters: Parameters = "every" if resolution == LOWEST else "first"
    cache = tmp_path / "mypy"
    found = failures(service, mypy_cache=cache, executable=own, parameters=parameters)
    assert found == []
    with _started(service, environment) as port:
        assert _status(port) == 200


@contextmanager
def _started(service: Path, environment: dict[str, Any]) -> Generator[int]:
    """Run the first command of the README, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    command = blocks((service / "README.md").read_text("utf-8"), "sh")[0].strip()
    path = os.pathsep.join([str(Path(UV).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    output = service / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"{command} --port {port}"],
            cwd=service,
            env={**kept, "PATH": path, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        ends_at = time.monotonic() + SECONDS
        while not _status(port):
            assert process.poll() is None, output.read_text("utf-8")
            assert time.monotonic() < ends_at, output.read_text("utf-8")
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _status(port: int) -> int:
    """Return what the first page of the user's answers, 0 as long as nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/", headers={"Host": "localhost"})
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
