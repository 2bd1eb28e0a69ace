"""This repository itself: its commands agree, its code is clean, its workflows do their work."""

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from .benchmark.__main__ import PARTS, parts
from .clone import releases
from .support import BASE, ROOT, TEMPLATE, Done, commit, git, python, read_yaml, run

TEST_COMMAND = (
    "python3 -m venv .tools && .tools/bin/pip install --quiet uv && .tools/bin/uv run pytest"
)
WORKFLOWS: Final = {path.stem: path for path in (ROOT / ".github/workflows").glob("*.yml")}

# A command that writes down how it was called, and prints what ANSWER says.
FAKE: Final = """#!/bin/sh
printf '%s\\n' "$@" >>"$CALLS"
printf '%s' "$ANSWER"
"""


def test_the_readme_says_what_ci_runs() -> None:
    """CI runs the commands that the README shows."""
    script = (ROOT / ".ci/run").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")

    assert script.splitlines()[-1] == TEST_COMMAND
    assert TEST_COMMAND in readme


@pytest.mark.parametrize(
    ("ci", "user", "apt", "installs"),
    [
        ("true", "0", True, True),
        ("true", "0", False, False),
        ("true", "1000", True, False),
        ("", "0", True, False),
    ],
)
def test_ci_installs_what_tests_start_where_it_may(
    *, ci: str, user: str, apt: bool, installs: bool, tmp_path: Path
) -> None:
    """Only as root in CI, and only where there is apt-get: the tests skip what they don't find."""
    commands, tools, calls = tmp_path / "bin", tmp_path / ".tools/bin", tmp_path / "calls"
    for folder in (commands, tools, tmp_path / ".ci"):
        folder.mkdir(parents=True)
    for command in ("dirname", "sh"):
        (commands / command).symlink_to(str(shutil.which(command)))
    faked = [commands / "python3", commands / "redis-server", tools / "pip", tools / "uv"]
    faked += [commands / "apt-get"] if apt else []
    for path in faked:
        path.write_text(f"#!{commands}/sh\necho \"${{0##*/}} $*\" >>'{calls}'\n", "utf-8")
    (commands / "id").write_text(f"#!{commands}/sh\necho {user}\n", "utf-8")
    for path in (*faked, commands / "id"):
        path.chmod(0o755)
    script = shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")

    done = run(str(shutil.which("bash")), script, cwd=tmp_path, CI=ci, PATH=str(commands))

    assert done.returncode == 0, done.stdout
    packages = "prometheus chromium npm nginx-light zsh fish"
    install = [
        "apt-get update --quiet=2",
        f"apt-get install --quiet=2 --no-install-recommends {packages}",
    ]
    assert calls.read_text("utf-8").splitlines() == [
        *(install if installs else ()),
        "python3 -m venv .tools",
        "pip install --quiet uv",
        "uv run pytest",
    ]


def test_the_tests_are_formatted_linted_and_typed() -> None:
    checks = (("ruff", "format", "--diff", "."), ("ruff", "check", "."), ("mypy",))

    results = [python(*check, cwd=ROOT) for check in checks]

    assert [done.stdout for done in results if done.returncode] == []


def test_no_service_is_named_like_a_package_that_it_installs() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))
    packages = {package["name"]: package for package in lock["package"]}
    new = {item["name"] for item in packages["fastapi-onion"]["dev-dependencies"]["services"]}
    installed = set[str]()
    while new:
        installed |= new
        extras = (packages[name].get("optional-dependencies", {}) for name in new)
        lists = [packages[name].get("dependencies", []) for name in new]
        lists += [items for extra in extras for items in extra.values()]
        new = {item["name"] for items in lists for item in items} - installed

    assert installed - {*BASE["installed"]} == set()


def test_the_readme_quotes_the_figures_as_they_were_measured() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    page = (ROOT / "docs/performance.md").read_text("utf-8").splitlines()
    quoted = readme.partition("## What it costs")[2].partition("\n## ")[0].splitlines()
    rows = [line for line in quoted if line.startswith("|")]

    assert len(rows) > 3
    assert [row for row in rows if row not in page] == []


@pytest.mark.parametrize(
    ("named", "expected"), [([], [*PARTS]), (["scale", "layers"], ["scale", "layers"])]
)
def test_the_benchmark_runs_what_is_named_or_everything(
    named: list[str], expected: list[str]
) -> None:
    assert parts(named) == expected


def test_the_benchmark_refuses_an_unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parts(["sockets", "nonsense"])

    assert "has no part nonsense; its parts are requests" in capsys.readouterr().err


# Workflows


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_the_workflows_pass_their_linters(path: Path) -> None:
    linters = (("actionlint",), ("check-jsonschema", "--builtin-schema", "vendor.github-workflows"))

    results = [
        run(Path(sys.executable).with_name(name), *rest, path, cwd=ROOT) for name, *rest in linters
    ]

    assert [done.stdout for done in results if done.returncode] == []


def test_the_workflow_tests_each_python_that_a_service_may_run_on() -> None:
    """From what its pyproject allows, as ours does, to what its image has."""
    jobs = read_yaml(WORKFLOWS["tests"])["jobs"]
    pythons = jobs["tests"]["strategy"]["matrix"]["python"]
    (oldest,) = re.findall(r">=3[.](\d+)", (TEMPLATE / "pyproject.toml.jinja").read_text("utf-8"))[
        :1
    ]
    (newest,) = {*re.findall(r"python:3[.](\d+)", (TEMPLATE / "Dockerfile").read_text("utf-8"))}

    assert pythons == [f"3.{minor}" for minor in range(int(oldest), int(newest) + 1)]
    assert f'requires-python = ">={pythons[0]}"' in (ROOT / "pyproject.toml").read_text("utf-8")
    assert f"uv python install {' '.join(pythons)}" in _scripts("tests", "matrix").values()


def test_the_workflow_takes_the_oldest_copier_that_is_allowed(tmp_path: Path) -> None:
    allowed = read_yaml(ROOT / "copier.yml")["_min_copier_version"]
    dependencies = (ROOT / "pyproject.toml").read_text("utf-8")
    script = _scripts("tests", "tests")["Take the oldest Copier that is allowed"]

    done, calls = _run(script, ROOT, tmp_path, "uv")

    assert done.returncode == 0, done.stdout
    assert calls == ["pip", "install", f"copier=={allowed}"]
    assert f'"copier>={allowed.removesuffix(".0")}"' in dependencies


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """Return a repository in which version 1.2.0 was merged and announced."""
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n', "utf-8")
    changes = "# Changelog\n\n## 1.2.0 - 2026-12-01\n\nNew.\n\n## 1.1.0 - 2026-11-30\n\nOld.\n"
    (folder / "CHANGELOG.md").write_text(changes, "utf-8")
    commit(folder)
    return folder


def test_a_merged_version_is_tagged_with_what_it_changes(merged: Path, tmp_path: Path) -> None:
    done, calls = _run(_scripts("release", "tag")["Tag"], merged, tmp_path, "gh")

    assert done.returncode == 0, done.stdout
    assert calls[:5] == ["release", "create", "1.2.0", "--target", "abc"]
    notes = "\n".join(calls[calls.index("--notes") + 1 :])
    assert "New." in notes
    assert "Old." not in notes


def test_a_version_is_tagged_once(merged: Path, tmp_path: Path) -> None:
    git("tag", "1.2.0", cwd=merged)

    done, calls = _run(_scripts("release", "tag")["Tag"], merged, tmp_path, "gh")

    assert (done.returncode, calls) == (0, [])


def test_a_version_of_which_nothing_is_told_is_not_tagged(merged: Path, tmp_path: Path) -> None:
    changes = (merged / "CHANGELOG.md").read_text("utf-8")
    (merged / "CHANGELOG.md").write_text(changes.replace("1.2.0", "1.2.1"), "utf-8")

    done, calls = _run(_scripts("release", "tag")["Tag"], merged, tmp_path, "gh")

    assert done.returncode != 0
    assert calls == []


@pytest.mark.parametrize(
    ("answer", "command"), [("", ["issue", "create"]), ("17", ["issue", "comment", "17"])]
)
def test_a_weekly_failure_opens_one_issue(answer: str, command: list[str], tmp_path: Path) -> None:
    script = _scripts("weekly", "newest")["Open an issue"]
    environment = {"ANSWER": answer, "RUN": "https://run.example", "TITLE": "It breaks"}

    done, calls = _run(script, tmp_path, tmp_path, "gh", "uv", **environment)

    assert done.returncode == 0, done.stdout
    assert "\n".join(command) in "\n".join(calls)
    assert "https://run.example" in calls


def test_the_changelog_tells_of_each_version() -> None:
    headings = re.findall(
        r"^## (\S+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )

    assert {*headings} >= {*releases(ROOT)}


def _scripts(workflow: str, job: str) -> dict[str, str]:
    """Return what the steps of a job run, by their names."""
    steps = read_yaml(WORKFLOWS[workflow])["jobs"][job]["steps"]
    return {step["name"]: step["run"] for step in steps if "run" in step}


def _run(
    script: str, cwd: Path, folder: Path, *faked: str, **environment: str
) -> tuple[Done, list[str]]:
    """Run a script as a workflow does, with some commands faked; return their arguments."""
    for name in faked:
        (folder / name).write_text(FAKE, "utf-8")
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    told: dict[str, Any] = {
        "ANSWER": "",
        "CALLS": str(calls),
        "GITHUB_SHA": "abc",
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    }
    told |= environment
    done = run("bash", "-e", "-c", script, cwd=cwd, **told)
    return done, calls.read_text("utf-8").splitlines() if calls.exists() else []
