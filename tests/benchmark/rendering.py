"""What Copier takes for a service: to copy it, and to update it from the last release."""

import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from ..clone import NEWEST
from ..support import ROOT, commit, git
from .interleaved import interleaved
from .page import seconds, table, write
from .targets import Targets

ROUNDS: Final = 7


def rendering(targets: Targets) -> None:
    """Copy and update `everything`, and a template of one file, several times in turn."""
    template, empty = targets.template, targets.folder / "empty"
    (empty / "template").mkdir(parents=True)
    (empty / "copier.yml").write_text("_subdirectory: template\n")
    (empty / "template" / "{{ _copier_conf.answers_file }}.jinja").write_text(
        "{{ _copier_answers | to_nice_yaml }}"
    )
    commit(empty)
    for version in ("1.0.0", "2.0.0"):
        git("commit", "--quiet", "--allow-empty", "--message", version, cwd=empty)
        git("tag", version, cwd=empty)
    here = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    tags = git("tag", "--sort", "version:refname", cwd=template).split()
    *_, released = [tag for tag in tags if tag not in {here, NEWEST}]
    work: dict[str, Callable[[], float]] = {
        "copy an empty template": lambda: _copy(targets.folder, empty, "2.0.0"),
        "copy everything": lambda: _copy(targets.folder, template, NEWEST),
        "update from an empty template": lambda: _update(targets.folder, empty, "1.0.0"),
        f"update everything from {released}": lambda: _update(targets.folder, template, released),
    }
    rounds = interleaved(work, ROUNDS)
    rows = [[name, seconds(median(taken[name] for taken in rounds))] for name in work]
    write("Rendering", table(["", "median of 7"], rows))


def _copy(folder: Path, template: Path, ref: str) -> float:
    service = folder / f"copied-{time.monotonic_ns()}"
    data = ("--data", "preset=everything")
    return _timed("copy", "--quiet", "--defaults", *data, "--vcs-ref", ref, template, service)


def _update(folder: Path, template: Path, released: str) -> float:
    service = folder / f"updated-{time.monotonic_ns()}"
    data = ("--data", "preset=everything")
    _timed("copy", "--quiet", "--defaults", *data, "--vcs-ref", released, template, service)
    commit(service)
    return _timed("update", "--quiet", "--defaults", service)


def _timed(*arguments: str | Path) -> float:
    start = time.perf_counter()
    subprocess.run((sys.executable, "-m", "copier", *map(str, arguments)), check=True)
    return time.perf_counter() - start
