"""Each case beside a rendered service, and the page that lists them."""

import fcntl
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import BASE, LAYERS, ROOT, blocks

from . import agents, clients, detectors, packages, servers
from .bench import CASES, Bench, Case

PAGE: Final = ROOT / "docs/compatibility.md"
MODULES: Final = (agents, clients, packages, servers)  # each adds its cases

HEAD: Final = """\
# Compatibility

Packages, agents and servers that FastAPI teams use, each beside a rendered service (preset
`everything`). A test of this repository installs each one, starts a service and sends requests;
`COMPATIBILITY=write uv run pytest -m "matrix or not matrix" tests/compatibility` writes this page.

"What to do" is what the documentation of the package doesn't say already.
"""
# The packages of the classes that the check of the order knows.
CHECKED: Final = (
    *("aioprometheus", "asgi-correlation-id", "asgi-cors", "asgi-cors-middleware"),
    *("asgi-cross-origin-protection", "asgi-csrf", "asgi-gzip", "asgi-idempotency-header[redis]"),
    *("asgi-logger", "asgi-monitor", "asgi-ratelimit", "brotli-asgi", "bugsnag", "elastic-apm"),
    *("honeybadger", "hypercorn", "opentelemetry-instrumentation-asgi", "piccolo-api"),
    *("prometheus-fastapi-instrumentator", "rollbar", "secure", "secweb", "sentry-sdk"),
    *("slowapi", "starlette-compress", "starlette-cramjam", "starlette-csrf"),
    *("starlette-exporter", "starlette-prometheus", "starsessions", "timing-asgi"),
    *("uvicorn", "zstd-asgi"),
)
_ROW: Final = re.compile(r"^\| (?P<name>.+?) \| (?P<setup>.+?) \| (?P<seen>.*?) \|$", re.MULTILINE)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-out", files[0], "-keyout", files[1]),
        ),
        check=True,
        capture_output=True,
    )
    return files


def _parameters() -> list[Any]:
    return [
        pytest.param(case, id=case.name, marks=() if case.sample else pytest.mark.matrix)
        for case in CASES
    ]


@pytest.mark.parametrize("case", _parameters())
def test_the_service_runs_with(
    case: Case, everything: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    service = shutil.copytree(everything, tmp_path / "service")
    bench = Bench(service, tmp_path / "environment", certificate)
    bench.install(*case.packages)

    seen_with = case.proof(bench) or bench.version(case.packages[0])

    if os.environ.get("COMPATIBILITY") == "write":
        with PAGE.open("r+", encoding="utf-8") as page:
            fcntl.flock(page, fcntl.LOCK_EX)
            seen = {**_seen(page.read()), case.name: seen_with}
            page.seek(0)
            page.write(_page(seen))
            page.truncate()


def test_every_detector_takes_each_layer_for_asgi_3(
    everything: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """The layers, the check, and the classes that the page of the service teaches."""
    service = shutil.copytree(everything, tmp_path / "service")
    bench = Bench(service, tmp_path / "environment", certificate)
    bench.install("asgiref", "ddtrace", "honeybadger", "httpx2", "newrelic", "sentry-sdk")
    taught = [code for page in service.glob("docs/**/*.md") for code in _layers_in(page)]
    assert taught
    older = "class Older:\n    def __call__(self, scope): ...\n"
    examples = [tmp_path / f"example_{number}.py" for number in range(len(taught) + 1)]
    for example, code in zip(examples, [*taught, older], strict=True):
        example.write_text(code, "utf-8")

    shutil.copy(detectors.__file__, service)
    done = bench.run("python", "detectors.py", *map(str, examples))

    seen = json.loads(done.stdout.splitlines()[-1])
    assert {_dotted(entry["class"]) for entry in LAYERS.values()} <= {*seen["layers"]}
    assert "app.middleware.core.check.OrderCheck" in seen["layers"]
    assert seen["wrong"] == [f"{name} takes Older for ASGI 2" for name in seen["detectors"]]


@pytest.mark.matrix
def test_the_check_knows_each_class_by_the_module_that_defines_it(
    everything: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """Users can import it from another one."""
    bench = Bench(everything, tmp_path / "environment", certificate)
    bench.install(*CHECKED)
    doubles = [name for layer in LAYERS.values() for name in layer.get("doubles", ())]
    names = [*doubles, *BASE["trackers"]]
    code = """
import json, sys
from importlib import import_module

parts = [name.rpartition(".") for name in sys.argv[1:]]
found = [getattr(import_module(module), name) for module, _, name in parts]
print(json.dumps([f"{it.__module__}.{it.__qualname__}" for it in found]))
"""

    done = bench.run("python", "-c", code, *names)

    assert json.loads(done.stdout.splitlines()[-1]) == names


def _dotted(name: str) -> str:
    return (f"app.middleware{name}" if name.startswith(".") else name).replace(":", ".")


def _layers_in(page: Path) -> list[str]:
    return [code for code in blocks(page.read_text("utf-8"), "python") if "__call__" in code]


def test_the_page_has_a_row_for_each_case() -> None:
    page = PAGE.read_text("utf-8")
    seen = _seen(page)

    assert page == _page(seen), "COMPATIBILITY=write in the environment renews the page"
    assert [name for name in (case.name for case in CASES) if not seen.get(name)] == []


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]

    assert len(set(names)) == len(names)


def _seen(page: str) -> dict[str, str]:
    return {row["name"]: row["seen"] for row in _ROW.finditer(page)}


def _page(seen: dict[str, str]) -> str:
    parts = [HEAD]
    for kind in dict.fromkeys(case.kind for case in CASES):
        rows = [
            f"| {case.name} | {case.setup} | {seen.get(case.name, '')} |"
            for case in CASES
            if case.kind == kind
        ]
        heading = f"\n## {kind.capitalize()}\n\n| | What to do | Seen with |\n| --- | --- | --- |\n"
        parts.append(heading + "\n".join(rows) + "\n")
    return "".join(parts)
