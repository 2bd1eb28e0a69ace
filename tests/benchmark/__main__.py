"""Measure what is named on the command line, or everything, and write it onto the page."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Final

from . import (
    in_process,
    limiters,
    overload,
    page,
    rendering,
    scale,
    sockets,
    start_up,
    whole_server,
)
from .targets import targets

PARTS: Final = {
    "requests": in_process.requests,
    "layers": in_process.layers,
    "policies": in_process.policies,
    "sockets": sockets.rates,
    "whole-server": whole_server.rates,
    "scale": scale.scale,
    "overload": overload.overload,
    "limiters": limiters.limiters,
    "start-up": start_up.start_up,
    "rendering": rendering.rendering,
}
TOOLS: Final = ("valgrind", "callgrind_control", "wrk", "taskset")


def parts(arguments: Sequence[str] | None = None) -> list[str]:
    """Return the parts that the command line names; none is all of them."""
    parser = argparse.ArgumentParser("python -m tests.benchmark", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"one of {', '.join(PARTS)}")
    named: list[str] = parser.parse_args(arguments).part
    # Not by `choices`, to which argparse would hold the empty list too.
    if unknown := {*named} - {*PARTS}:
        parser.error(f"has no part {', '.join(unknown)}; its parts are {', '.join(PARTS)}")
    return named or [*PARTS]


def main() -> None:
    """Run the parts one after the other: a second one would be in the way."""
    named = parts()
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        sys.exit(
            f"The benchmark needs {', '.join(missing)}: apt-get install valgrind wrk util-linux"
        )
    # What is measured runs from its bytecode, as it does wherever it is installed.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with targets() as found:
        for part in named:
            print(part, flush=True)
            PARTS[part](found)
    print(page.PAGE)


if __name__ == "__main__":
    main()
