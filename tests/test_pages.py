"""The pages of this repository: README, changelog, decisions."""

import re
from pathlib import Path
from typing import Final

import pytest
from markdown_it import MarkdownIt

from .support import LAYERS, ROOT, SERVE, run

ADDRESS: Final = "https://github.com/OWNER/fastapi-onion"

README: Final = (ROOT / "README.md").read_text("utf-8")
CHANGELOG: Final = (ROOT / "CHANGELOG.md").read_text("utf-8")
DECISIONS: Final = sorted((ROOT / "docs/decisions").glob("*.md"))
PAGES: Final = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "hooks/README.md", *DECISIONS]


def commands() -> list[str]:
    tokens = MarkdownIt().parse(README)
    return [token.content.strip() for token in tokens if token.info == "sh"]


def test_the_public_address_stands_in_one_place() -> None:
    tracked = run("git", "grep", "--count", "OWNER/", cwd=ROOT).stdout.split()

    assert [line for line in tracked if not line.startswith("tests/")] == ["README.md:1"]
    assert ADDRESS in README


def test_the_commands_need_only_python_and_git() -> None:
    """They follow each other in one shell, so none leaves the clone."""
    _, start, test, *_ = commands()

    for command in (start, test):
        assert command.startswith("python3 -m venv .tools && .tools/bin/pip install --quiet ")
        assert " cd " not in command
    assert 'copier copy --defaults --data project_name=Orders "$PWD"' in start
    assert start.endswith(f" && .tools/bin/uv run --directory ../orders {SERVE}")
    assert test.endswith("run pytest")


def test_the_changelog_tells_of_each_layer() -> None:
    sections = re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)

    assert set(sections) == {"Your service changes", "Only new services"}
    for name, entry in LAYERS.items():
        assert f"{entry['label']} (`{name}`)" in CHANGELOG


def test_the_hooks_are_said_to_be_harmless() -> None:
    first = (ROOT / "hooks/README.md").read_text("utf-8").splitlines()[0]

    assert first.startswith("Nothing in `hooks/` is copied")
    assert "only in Copier's sandbox" in first


def test_the_table_of_the_hooks_names_each_of_them() -> None:
    table = (ROOT / "hooks/README.md").read_text("utf-8")
    named = {name.partition("/")[0] for name in re.findall(r"`([\w./<>]+)`", table)}

    assert {path.name for path in (ROOT / "hooks").iterdir()} - named <= {"README.md"}


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_form(decision: Path) -> None:
    text = decision.read_text("utf-8")

    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert text.startswith(f"# {int(decision.stem[:4])}. ")
    assert len(text.split()) < 350


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_link_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert "://" in link or (page.parent / link).exists(), link
