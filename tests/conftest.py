"""
A clone of this repository that Copier renders from, and `render`, which renders it.

The clone holds the working tree, uncommitted changes included, and has a tag for each release:
a first-parent commit that changed `version` in `pyproject.toml`. The working tree is the newest.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
from copier import run_copy
from plumbum import local

from .support import ROOT, TESTS, commit, git

NEWEST: Final = "999.0.0"

# A layer of test_catalogue.py, whose test runs in a rendered service.
collect_ignore = ["demo_layer"]

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
    git("clone", "--quiet", "--no-tags", ROOT, clone, cwd=ROOT)
    _tag_releases(clone)
    _lay_working_tree(clone)
    commit(clone, "the working tree")
    git("tag", NEWEST, cwd=clone)
    return clone


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


def _tag_releases(clone: Path) -> None:
    log = git("log", "--first-parent", "--format=%H", "--", "pyproject.toml", cwd=clone)
    released = ""
    for revision in reversed(log.split()):
        text = git("show", f"{revision}:pyproject.toml", cwd=clone)
        version = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
        if version and version[1] != released:
            released = version[1]
            git("tag", released, revision, cwd=clone)


def _lay_working_tree(clone: Path) -> None:
    """Replace the files of the clone by those that stand here, git-ignored ones left out."""
    git("rm", "--quiet", "-r", ".", cwd=clone)
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in {*listed.strip("\0").split("\0")}:
        if (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
