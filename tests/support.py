"""What the tests share that is no fixture: the catalogue, and how a command is run."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

TESTS: Final = Path(__file__).parent
ROOT: Final = TESTS.parent
TEMPLATE: Final = ROOT / "template"

# `uv run` sets its path.
UV: Final = os.environ.get("UV") or shutil.which("uv") or ""

Answers = Mapping[str, Any]
Done = subprocess.CompletedProcess[str]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


ORDER: Final[dict[str, Any]] = read_yaml(ROOT / "hooks/order.yml")
BASE: Final[dict[str, Any]] = read_yaml(ROOT / "hooks/base.yml")


def _entries(folder: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    paths = {name: ROOT / "hooks" / folder / f"{name}.yml" for name in names}
    return {name: read_yaml(path) for name, path in paths.items() if path.exists()}


LAYERS: Final = _entries("layers", ORDER["layers"])
SHARED: Final = _entries("shared", ORDER["shared"])
ENTRIES: Final = {**LAYERS, **SHARED}

SERVE: Final = "uvicorn app.main:app --reload --lifespan on --no-server-header --no-proxy-headers"

FAILED_START: Final = 3  # the status for which uvicorn's supervisor starts no new worker

SCHEMES: Final = ("jwt", "session", "api_key")
STORAGES: Final = ("memory", "redis")
STORING: Final = {
    name for name, layer in LAYERS.items() if "storage/base" in layer.get("modules", ())
}


def closed(layers: Iterable[str]) -> list[str]:
    """Return `layers` with what they require, in the order of the stack."""
    found, new = set[str](), set(layers)
    while new:
        found |= new
        new = {needed for name in new for needed in LAYERS[name].get("requires", {})} - found
    return [name for name in LAYERS if name in found]


def with_variants(entry: Answers) -> Iterator[Answers]:
    """Yield an entry of the catalogue and each of its variants."""
    yield entry
    for variants in entry.get("variants", {}).values():
        yield from variants.values()


def run(*command: str | Path, cwd: Path, timeout: float = 300, **environment: str) -> Done:
    """Run a command of this environment, with none of the settings of these tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**kept, "NO_COLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


def python(*arguments: str | Path, cwd: Path, timeout: float = 300, **environment: str) -> Done:
    """Run `python -m ...` of this environment."""
    return run(sys.executable, "-m", *arguments, cwd=cwd, timeout=timeout, **environment)


def path_with_uv(folder: Path) -> str:
    """Return a PATH on which `uv run python` is the Python of this environment."""
    uv = folder / "uv"
    uv.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} "$@"\n', "utf-8")
    uv.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def real_defaults(folder: Path) -> dict[str, Any]:
    """Return the environment in which Copier has the defaults of the template, not of the tests."""
    settings = folder / "copier_settings.yml"
    settings.write_text("{}\n", "utf-8")
    return {"COPIER_SETTINGS_PATH": str(settings)}


def git(*arguments: str | Path, cwd: Path) -> str:
    """Run git, which must succeed."""
    done = run("git", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def commit(folder: Path, message: str = "change") -> None:
    """Commit all that is in a folder, which becomes a repository if it is none."""
    if not (folder / ".git").exists():
        git("init", "--quiet", cwd=folder)
    git("add", "--all", cwd=folder)
    git("commit", "--quiet", "--allow-empty", "--message", message, cwd=folder)


@cache
def interpreter(version: str) -> str:
    """Return where a Python such as 3.11 is on this machine; nothing is downloaded for it."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # What pyenv puts on the path are scripts, which fail unless the version is set.
    path = os.pathsep.join([*map(str, pyenv.glob("versions/*/bin")), os.environ["PATH"]])
    find = ("python", "find", "--system", "--no-project", "--no-python-downloads")
    done = run(UV, *find, version, cwd=ROOT, PATH=path) if UV else None
    # Other output of uv comes before it.
    return done.stdout.splitlines()[-1] if done and done.returncode == 0 else ""


def tokens(markdown: str) -> list[Token]:
    return MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)


def blocks(markdown: str, language: str) -> list[str]:
    return [
        item.content for item in tokens(markdown) if item.type == "fence" and item.info == language
    ]


def files_shown(page: str) -> list[tuple[str, str]]:
    """Return the files of a page: each block of Python is the one that the words above it name."""
    files = r"^`((?:app|tests)/\w+[.]py)`[^\n]*\n\n```python\n(.*?)^```$"
    return re.findall(files, page, re.MULTILINE | re.DOTALL)


Parameters = Literal["every", "of layers", "first"]
_RUNNERS: Final[dict[Parameters, tuple[str | Path, ...]]] = {
    "every": ("-m", "pytest"),
    "of layers": ("-P", TESTS / "first_parameters.py", "--of-every-service"),
    "first": ("-P", TESTS / "first_parameters.py"),
}


def failures(
    service: Path,
    *,
    mypy_cache: Path,
    executable: str | Path = sys.executable,
    parameters: Parameters = "every",
) -> list[str]:
    """Run all that must be clean in a service; return the output of what was not."""
    checks = (
        ("ruff", "format", "--diff", "--no-cache", "."),
        ("ruff", "check", "--no-cache", "."),
        ("mypy", "--cache-dir", mypy_cache),
    )
    results = [run(executable, "-m", *check, cwd=service) for check in checks]
    results.append(_tested(service, executable, *_RUNNERS[parameters]))
    return [done.stdout for done in results if done.returncode]


def _tested(service: Path, *runner: str | Path) -> Done:
    # In the folder that all runs of pytest share one trips over what another takes away.
    folder = service.with_name(f"{service.name}-tests")
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={folder}")
    # The whole of it takes minutes where two share a core.
    return run(*runner, *options, cwd=service, timeout=900)
