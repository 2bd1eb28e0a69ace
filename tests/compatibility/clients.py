"""Generators of clients, which read `/openapi.json`."""

import shutil
from functools import partial

import pytest

from tests.support import run

from .bench import Bench, case

client = partial(case, kind="generators of clients")


def _write_document(bench: Bench) -> None:
    bench.write_main()
    with bench.serving() as server:
        document = server.request("/openapi.json").body
    (bench.service / "openapi.json").write_text(document, "utf-8")


@client("openapi-python-client", "openapi-python-client")
def openapi_python_client(bench: Bench) -> None:
    _write_document(bench)
    done = bench.run(
        "openapi-python-client", "generate", "--path", "openapi.json", "--meta", "none"
    )
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout.upper(), done.stdout


@client("openapi-typescript", "fastapi")
def openapi_typescript(bench: Bench) -> str:
    if not (npx := shutil.which("npx")):
        pytest.skip("npm is not installed")
    _write_document(bench)
    command = (npx, "--yes", "openapi-typescript@7")
    done = run(*command, "openapi.json", "-o", "api.d.ts", cwd=bench.service)
    assert done.returncode == 0, done.stdout
    assert "paths" in (bench.service / "api.d.ts").read_text("utf-8")
    version = run(*command, "--version", cwd=bench.service).stdout
    return f"openapi-typescript {version.strip().removeprefix('v')}"
