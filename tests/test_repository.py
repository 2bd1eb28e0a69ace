"""This repository itself: its commands agree, its own code is clean."""

import tomllib

from .support import BASE, ROOT, python

TEST_COMMAND = (
    "python3 -m venv .tools && .tools/bin/pip install --quiet uv && .tools/bin/uv run pytest"
)


def test_the_readme_says_what_ci_runs() -> None:
    """What CI proves is what a reader is told to type."""
    script = (ROOT / ".ci/run").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")

    assert script.splitlines()[-1] == TEST_COMMAND
    assert TEST_COMMAND in readme


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
