"""
A clone of this repository that Copier renders from, and `render`, which renders it.

The clone holds the working tree, uncommitted changes included, and has a tag for each release:
a first-parent commit that changed `version` in `pyproject.toml`. The working tree is the newest.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
from copier import run_copy
from plumbum import local

from .clone import clone_template
from .support import TESTS

# These run in a rendered service.
collect_ignore = ["demo_layer", "driver"]

_ENVIRONMENT: Final = {
    "COPIER_SETTINGS_PATH": str(TESTS / "copier_settings.yml"),
    "GIT_CONFIG_GLOBAL": str(TESTS / "gitconfig"),
    "GIT_CONFIG_SYSTEM": os.devnull,
}
# Copier runs git through plumbum, which took its own copy of the environment at its import.
os.environ.update(_ENVIRONMENT)
local.env.update(_ENVIRONMENT)


class Render(Protocol):
    """Render a service from `answers` into a new folder, without trust or a terminal."""

    def __call__(
        self, folder: str = ..., /, *, source: Path = ..., ref: str = ..., **answers: Any
    ) -> Path: ...


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the clone; a test that changes it makes its own by `git clone`."""
    clone = tmp_path_factory.mktemp("template") / "fastapi-onion"
    clone_template(clone)
    return clone


@pytest.fixture(scope="session")
def everything(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a service with all layers, to be copied and not to be changed."""
    folder = tmp_path_factory.mktemp("everything") / "service"
    data = {"preset": "everything"}
    run_copy(str(template), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


@pytest.fixture(scope="session")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where mypy keeps what it knows of the libraries."""
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture
def render(template: Path, tmp_path: Path) -> Iterator[Render]:
    rendered: list[Path] = []

    def render(
        folder: str = "service",
        /,
        *,
        source: Path = template,
        ref: str = "HEAD",
        **answers: Any,
    ) -> Path:
        destination = tmp_path / folder
        run_copy(
            str(source),
            destination,
            data=answers,
            defaults=True,
            quiet=True,
            unsafe=False,
            vcs_ref=ref,
        )
        rendered.append(destination)
        return destination

    yield render
    for folder in rendered:
        shutil.rmtree(folder, ignore_errors=True)
