"""The questions as a person sees them: a real terminal of 80 columns, used key by key."""

import os
import sys
from pathlib import Path

import pexpect
import pyte

from .conftest import Render
from .support import LAYERS, ORDER, commit, read_yaml

ROWS, COLUMNS = 60, 80
SECONDS = 60
ENTER, CLEAR, INTERRUPT, DOWN = "\r", "\x15", "\x03", "\x1b[B"


class Terminal:
    """Copier in a terminal, and its screen."""

    def __init__(self, *command: str | Path) -> None:
        arguments = ["-m", "copier", *map(str, command)]
        environment: dict[str, str] = {**os.environ, "TERM": "xterm"}
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._child = pexpect.spawn(
            sys.executable, arguments, env=environment, dimensions=(ROWS, COLUMNS)
        )

    def see(self, text: str) -> list[str]:
        """Wait until `text` is on the screen; return its rows."""
        while text not in "\n".join(rows := [row.rstrip() for row in self._screen.display]):
            data = self._child.read_nonblocking(65536, timeout=SECONDS)
            # A program may ask where the cursor is.
            if b"\x1b[6n" in data:
                self._child.send(f"\x1b[{self._screen.cursor.y + 1};{self._screen.cursor.x + 1}R")
            self._stream.feed(data)
        return rows

    def answer(self, text: str, keys: str = ENTER) -> list[str]:
        """Press `keys` when `text` is on the screen; return its rows."""
        rows = self.see(text)
        self._child.send(keys)
        return rows

    def end(self) -> int | None:
        """Wait for the end; return the exit status."""
        self._child.expect(pexpect.EOF, timeout=SECONDS)
        self._child.close()
        status: int | None = self._child.exitstatus
        return status


def test_a_service_is_chosen_key_by_key(template: Path, tmp_path: Path) -> None:
    """Each layer has one row, whole."""
    service = tmp_path / "service"
    terminal = Terminal("copy", "--vcs-ref=HEAD", template, service)

    terminal.answer("What is the service called?", f"{CLEAR}Onions 🧅{ENTER}")
    terminal.answer("What does it do")
    terminal.answer("What kind of service is it?")
    rows = terminal.answer([*LAYERS.values()][-1]["summary"])
    terminal.answer("Where are request counts and idempotent responses stored?")

    assert terminal.end() == 0
    lines = [f"{layer['label']}: {layer['summary']}" for layer in LAYERS.values()]
    assert [line for line in lines if not any(row.endswith(f" {line}") for row in rows)] == []
    answers = read_yaml(service / ".copier-answers.yml")
    assert answers["project_name"] == "Onions 🧅"
    assert {*answers["layers"]} == {*ORDER["presets"]["api"]}


def test_an_update_is_answered_key_by_key(render: Render) -> None:
    """What to look at afterwards is said in lines that the terminal doesn't break."""
    layers = {"request_id", "cors"}
    service = render(layers=[*layers])
    commit(service)
    terminal = Terminal("update", service)

    terminal.answer("What is the service called?")
    terminal.answer("What does it do")
    terminal.answer([*LAYERS.values()][-1]["summary"], f" {ENTER}")
    rows = terminal.see("New features are listed in CHANGELOG.md of")
    address = read_yaml(service / ".copier-answers.yml")["_src_path"]
    terminal.see(f"  {address}"[:COLUMNS])

    assert terminal.end() == 0
    chosen = {*read_yaml(service / ".copier-answers.yml")["layers"]}
    assert len(chosen ^ layers) == 1
    assert "  git status --short -uall   UU and .rej are conflicts, D a deleted file" in rows
    assert any(row.startswith("  git restore FILE ") for row in rows)


def test_a_scheme_that_lacks_its_layer_can_not_be_chosen(template: Path, tmp_path: Path) -> None:
    """Copier asks no validator where one of a list is chosen."""
    service = tmp_path / "service"
    terminal = Terminal("copy", "--vcs-ref=HEAD", "--data=preset=public", template, service)

    terminal.answer("What is the service called?")
    terminal.answer("What does it do")
    terminal.answer([*LAYERS.values()][-1]["summary"])
    terminal.answer("Must every request have credentials?", "y")
    rows = terminal.answer("API keys: one per calling program", f"{DOWN}{ENTER}")
    further = terminal.answer("Which other schemes are accepted?", f" {ENTER}")
    terminal.answer("Where are request counts and idempotent responses stored?")
    terminal.see("Commit it to git before you edit it")

    assert terminal.end() == 0
    assert any(row.endswith("cookie (session needs the layer session)") for row in rows)
    assert any(row.endswith("cookie (session needs the layer session)") for row in further)
    recorded = read_yaml(service / ".copier-answers.yml")
    assert recorded["authentication_required"] is True
    assert recorded["authentication_scheme"] == "api_key"
    assert recorded["further_schemes"] == ["jwt"]


def test_a_wrong_answer_is_told_on_the_spot(template: Path, tmp_path: Path) -> None:
    """Copier gives it one row, so the rule must come first."""
    terminal = Terminal("copy", "--vcs-ref=HEAD", template, tmp_path / "service")

    terminal.answer("What is the service called?", f"{CLEAR}{ENTER}")
    terminal.answer("must be 1 to 50 printable", INTERRUPT)
    assert terminal.end() == 1
    assert not (tmp_path / "service").exists()
