"""A clone of this repository, with a tag for each release and for the files here."""

import shutil
import tomllib
from pathlib import Path
from typing import Final

from .support import ROOT, commit, git

NEWEST: Final = "999.0.0"


def clone_template(folder: Path) -> None:
    """Clone into `folder`; the working tree, uncommitted changes included, is the newest."""
    git("clone", "--quiet", "--no-tags", ROOT, folder, cwd=ROOT)
    for version, revision in releases(folder).items():
        git("tag", version, revision, cwd=folder)
    _lay_working_tree(folder)
    commit(folder, "the working tree")
    git("tag", NEWEST, cwd=folder)


def releases(repository: Path) -> dict[str, str]:
    """Return the first revision of each version, oldest first."""
    path = ("--", "pyproject.toml")
    found: dict[str, str] = {}
    log = git("log", "--first-parent", "--reverse", "--format=%H", *path, cwd=repository)
    for revision in log.split():
        text = git("show", f"{revision}:pyproject.toml", cwd=repository)
        found.setdefault(tomllib.loads(text)["project"]["version"], revision)
    return found


def _lay_working_tree(clone: Path) -> None:
    """Replace the files of the clone by those here, without ignored ones."""
    git("rm", "--quiet", "-r", ".", cwd=clone)
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in {*listed.strip("\0").split("\0")}:
        if (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
