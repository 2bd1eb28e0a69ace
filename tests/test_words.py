"""How what is written reads: its length, its words, its sentences."""

import ast
import re
import tokenize
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

import pytest
from copier import run_copy

from .support import ENTRIES, LAYERS, ROOT, read_yaml, tokens, with_variants

# Words outside of blocks of code.
WORDS_OF_THE_PAGE: Final = {"minimal": 1500, "api": 1500, "everything": 2200}
WORDS_OF_A_LAYER: Final = 300
WORDS_OF_A_SENTENCE: Final = 35

# What reads like a translation, or makes a layer a person.
AVOIDED: Final = re.compile(
    r"\b(?:shall|alike|dear|dearly|costly|knobs?|heeds?|judged?|judges|whoever|whom|tells?|told"
    r"|believed?|believes|admits?|admitted|further (?:in|out)|turn(?:s|ed)? away|as it were"
    r"|whatever becomes|anyhow|stands?(?! alone)|answered|answers (?:with )?\d{3}"
    r"|in work|(?:ends?|stops?) the start|let be|be had|nearer|say whether)\b",
    re.IGNORECASE,
)
SENTENCE: Final = re.compile(r"(?<=[.!?:;])[\"')*]*\s+")


@pytest.fixture(scope="module", params=WORDS_OF_THE_PAGE)
def service(
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder: Path = tmp_path_factory.mktemp("words") / request.param
    answers = {"preset": request.param}
    run_copy(str(template), folder, data=answers, defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


def written(service: Path) -> list[Path]:
    return [service / "README.md", *sorted((service / "docs").rglob("*.md"))]


def texts(markdown: str) -> Iterator[str]:
    """Yield what is read as one: a paragraph, a heading, a cell of a table."""
    for token in tokens(markdown):
        parts = (
            " " if part.type in {"softbreak", "hardbreak"} else part.content
            for part in token.children or ()
            if part.type in {"text", "code_inline", "softbreak", "hardbreak"}
        )
        if token.type == "inline":
            yield "".join(parts)


def prose(markdown: str) -> Iterator[str]:
    """Yield the same without code."""
    for token in tokens(markdown):
        if token.type == "inline":
            yield " ".join(part.content for part in token.children or () if part.type == "text")


def comments(path: Path) -> Iterator[str]:
    """Yield the comments and the docstrings of a file of Python."""
    before = tokenize.NEWLINE
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            starts = before in {tokenize.ENCODING, tokenize.NEWLINE, tokenize.INDENT}
            if token.type == tokenize.COMMENT or (starts and token.type == tokenize.STRING):
                yield " ".join(re.sub("`[^`]*`", "", token.string).split())
            if token.type not in {tokenize.COMMENT, tokenize.NL}:
                before = token.type


def strings(path: Path) -> Iterator[str]:
    """Yield the strings of several words in a file of Python: messages are among them."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = re.sub("`[^`]*`", "", node.value).split()
            if len(words) > 1:
                yield " ".join(words)


def length(path: Path) -> int:
    """Count the words of a page, without the rows that every new layer makes longer."""
    text = path.read_text("utf-8").partition("\n## Left out\n")[0]
    rows = (line for line in text.splitlines() if not line.endswith("`test_refusals.py` |"))
    return sum(len(words.split()) for words in texts("\n".join(rows)))


def test_the_page_is_short(service: Path) -> None:
    assert length(service / "docs/middleware.md") <= WORDS_OF_THE_PAGE[service.name]


def test_each_layer_is_short(service: Path) -> None:
    lengths = {path.stem: length(path) for path in (service / "docs/layers").iterdir()}

    assert {name: words for name, words in lengths.items() if words > WORDS_OF_A_LAYER} == {}


def test_no_sentence_is_long(service: Path) -> None:
    for path in [*written(service), ROOT / "README.md"]:
        for text in texts(path.read_text("utf-8")):
            long = [it for it in SENTENCE.split(text) if len(it.split()) > WORDS_OF_A_SENTENCE]
            assert long == [], path


def test_a_line_is_one_sentence(service: Path) -> None:
    """So a change of a sentence is a change of a line."""
    for path in [*written(service), ROOT / "README.md"]:
        text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        lines = [line for line in text.splitlines() if not line.startswith("|")]
        assert [line for line in lines if re.search(r"\w\w[`)]?[.!?] +[A-Z`]", line)] == [], path


def test_words_are_plain(service: Path) -> None:
    for path in [*written(service), ROOT / "README.md"]:
        found = [text for text in prose(path.read_text("utf-8")) if AVOIDED.search(text)]
        assert found == [], path


@pytest.mark.parametrize("name", ENTRIES)
def test_the_words_of_an_entry_are_plain(name: str) -> None:
    for part in with_variants(ENTRIES[name]):
        words = [part.get(key, "") for key in ("summary", "place", "websocket", "client_sees")]
        words += [part.get("per_route", ""), *(it["help"] for it in part.get("policies", ()))]
        words += [knob[key] for knob in part.get("settings", ()) for key in ("help", "unit")]
        words += [rule["because"] for rule in part.get("inside", ())]
        words += [gauge["meaning"] for gauge in part.get("gauges", ())]
        words += [item["help"] for item in part.get("public", ())]
        words += [*part.get("requires", {}).values()]
        words += [part.get("outside_of_refusals", {}).get("because", "")]

        assert [text for text in words if AVOIDED.search(re.sub("`[^`]*`", "", text))] == []


def test_the_words_of_messages_are_plain(service: Path) -> None:
    files = sorted((service / "app").rglob("*.py"))
    found = {path: [text for text in strings(path) if AVOIDED.search(text)] for path in files}

    assert len(files) > 10
    assert {path: texts for path, texts in found.items() if texts} == {}


def test_a_log_line_has_in_its_text_what_its_fields_have() -> None:
    """Without the log layer, nothing prints what is in `extra`."""
    files = (ROOT / "template/app").rglob("*.py")
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    fields = [
        (ast.unparse(value), {*map(ast.unparse, call.args)})
        for call in calls
        for keyword in call.keywords
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict)
        for value in keyword.value.values
    ]

    assert len(fields) > 3
    assert [value for value, arguments in fields if value not in arguments] == []


def test_the_words_of_the_code_are_plain(service: Path) -> None:
    """So a comment reads like the page."""
    folders = [service] if service.name != "everything" else [service, ROOT / "tests"]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    found = {path: [text for text in comments(path) if AVOIDED.search(text)] for path in files}

    assert len(files) > 10
    assert {path: texts for path, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), ROOT / "hooks/README.md", *ROOT.glob("docs/**/*.md")],
    ids=lambda path: path.stem,
)
def test_the_words_of_a_page_are_plain(page: Path) -> None:
    assert [text for text in prose(page.read_text("utf-8")) if AVOIDED.search(text)] == []


def test_the_words_of_the_symptoms_are_plain() -> None:
    rows = read_yaml(ROOT / "hooks/symptoms.yml")

    assert [row for row in rows if AVOIDED.search(f"{row['symptom']} {row['look']}")] == []


def test_the_picture_of_the_readme_is_the_one_that_is_rendered(service: Path) -> None:
    if service.name == "everything":
        rendered, kept = (folder / "docs/onion.svg" for folder in (service, ROOT))
        assert rendered.read_text("utf-8") == kept.read_text("utf-8")
    assert "](docs/onion.svg)" in (ROOT / "README.md").read_text("utf-8").partition("\n## ")[0]


def test_each_band_is_one_run_of_layers() -> None:
    order = read_yaml(ROOT / "hooks/order.yml")
    bands = [LAYERS[name]["band"] for name in order["layers"]]

    assert [band for band, _ in groupby(bands)] == [band["name"] for band in order["bands"]]
