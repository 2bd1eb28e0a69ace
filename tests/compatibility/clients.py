"""What generates clients and tests from `/openapi.json`."""

import shutil
from functools import partial

import pytest

from tests.support import run

from .bench import Bench, case

client = partial(case, kind="generated clients and tests")


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


_SIGN = """
import os, time
import jwt
print(jwt.encode({"sub": "alice", "exp": time.time() + 600}, os.environ["JWT_KEY"]))
"""


@client(
    "Schemathesis",
    "schemathesis",
    setup="`--exclude-checks positive_data_acceptance`: it sends one Idempotency-Key with two"
    " bodies",
)
def schemathesis(bench: Bench) -> None:
    token = bench.run("python", "-c", _SIGN).stdout.split()[-1]
    with bench.serving() as server:
        address = f"http://localhost:{server.port}/openapi.json"
        credential = f"Authorization: Bearer {token}"
        command = ("schemathesis", "run", address, "-H", credential, "--max-examples", "30")
        done = bench.run(*command, "--exclude-checks", "positive_data_acceptance")
    assert done.returncode == 0, done.stdout
