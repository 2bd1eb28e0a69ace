"""Measure what is named on the command line, or everything, and write it onto the page."""

import argparse
import shutil
from typing import Final

from . import in_process, page, rendering, scale, sockets, start_up
from .targets import targets

PARTS: Final = {
    "requests": in_process.requests,
    "layers": in_process.layers,
    "sockets": sockets.rates,
    "scale": scale.scale,
    "start-up": start_up.start_up,
    "rendering": rendering.rendering,
}
TOOLS: Final = ("valgrind", "callgrind_control", "wrk", "taskset")


def main() -> None:
    """Run the parts one after the other: a second one would be in the way."""
    parser = argparse.ArgumentParser("python -m tests.benchmark", description=__doc__)
    parser.add_argument("part", nargs="*", choices=[*PARTS], default=[*PARTS])
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        parser.error(f"needs {', '.join(missing)}: apt-get install valgrind wrk util-linux")
    with targets() as found:
        for part in parser.parse_args().part:
            print(part, flush=True)
            PARTS[part](found)
    print(page.PAGE)


if __name__ == "__main__":
    main()
