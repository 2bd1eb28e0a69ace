"""
The recording of the README: the questions, and one request through the service that they make.

`RECORDING=write` in the environment renews docs/recording.svg.
"""

import os
import re
import shlex
from collections.abc import Iterator
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from .support import LAYERS, ROOT, python
from .test_terminal import CLEAR, COLUMNS, DOWN, ENTER, Terminal

RECORDING: Final = ROOT / "docs/recording.svg"

SETTINGS: Final[dict[str, Any]] = {
    "COLUMNS": str(COLUMNS),
    "CORS_ALLOW_ORIGINS": "https://app.example",
    "RATE_LIMIT": "2/minute",
}
REQUEST: Final = ("GET", "/orders/1", "-H", "Origin: https://app.example", "--repeat", "3")

# What differs from run to run.
CHANGES: Final = {
    r"\b[0-9a-f]{32}\b": "4c418ea4cf58cf157597d69a9b0f5743",
    r"^[🎤🕵]": "?",  # which not every font has
    r"(?<=Retry in )\d+|(?<=retry-after: )\d+|(?<=;t=)\d+": "60",
}
STYLES: Final = {
    r"\$ .*": "bold green",
    r"[?\w].*": "bold",
    r"   \w.*": "cyan",
    r" » .*": "cyan",
}
# Which the picture shows, and which differs too.
TIME: Final = re.compile(r"\d+[.]\d\d(?=&#160;ms<)")
# Fonts of another site, which a picture in a README can't load.
FONTS: Final = re.compile(r"\s*@font-face {.*?}\n", re.DOTALL)


def test_the_recording_is_what_a_terminal_shows(template: Path, tmp_path: Path) -> None:
    service = tmp_path / "orders"

    picture = _picture([*_questions(template, service), "", *_explained(service)])

    if os.environ.get("RECORDING") == "write":
        RECORDING.write_text(picture, "utf-8")
    kept, shown = (TIME.sub("TIME", it) for it in (RECORDING.read_text("utf-8"), picture))
    assert kept == shown, "RECORDING=write renews the picture"


def test_the_readme_shows_the_recording_first() -> None:
    before, _, _ = (ROOT / "README.md").read_text("utf-8").partition("\n## ")

    assert "](docs/recording.svg)" in before


def _questions(template: Path, service: Path) -> Iterator[str]:
    """Answer the questions in a terminal; yield what it shows at the last one."""
    terminal = Terminal("copy", "--vcs-ref=HEAD", template, service)
    names = [*LAYERS]
    to_cors = DOWN * names.index("cors")
    to_rate_limit = DOWN * (names.index("rate_limit") - names.index("cors"))
    terminal.answer("What is the service called?", f"{CLEAR}Orders{ENTER}")
    terminal.answer("What does it do")
    terminal.answer("What kind of service is it?", f"{DOWN * 3}{ENTER}")
    terminal.answer([*LAYERS.values()][-1]["summary"], f"{to_cors} {to_rate_limit} {ENTER}")
    rows = terminal.answer("Redis: shared by all workers")
    terminal.see("Commit it to git before you edit it")
    assert terminal.end() == 0

    yield "$ uvx copier copy https://github.com/…/fastapi-onion orders"
    yield from (row for row in rows if row)


def _explained(service: Path) -> Iterator[str]:
    """Send the request; yield what becomes of it, without the response itself."""
    done = python("app.middleware", "explain", *REQUEST, cwd=service, **SETTINGS)
    assert done.returncode == 0, done.stdout

    _, *settings = SETTINGS.items()
    yield f"$ {' '.join(f'{name}={value}' for name, value in settings)} \\"
    yield "  uv run python -m app.middleware explain \\"
    yield f"  {shlex.join(REQUEST)}"
    yield from takewhile(lambda row: not row.startswith("Response,"), done.stdout.splitlines())


def _picture(rows: list[str]) -> str:
    console = Console(record=True, width=COLUMNS, file=StringIO(), highlight=False)
    for row in rows:
        text = row
        for change, instead in CHANGES.items():
            text = re.sub(change, instead, text)
        style = next((style for form, style in STYLES.items() if re.fullmatch(form, text)), "")
        console.print(Text(text, style))
    return FONTS.sub("", console.export_svg(title="fastapi-onion", unique_id="recording"))
