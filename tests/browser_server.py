"""
Servers of a rendered service: `python -m tests.browser_server FOLDER`.

Reads a JSON line `{"port", "log", "settings", "spoilt"}` from standard input for each server that
it must run, and ends with all of them when the input ends. Each runs in a fork of a process that
has imported the libraries already, which saves most of the time; `spoilt` are the arguments of
`spoil`, if any.
"""

import importlib
import json
import os
import signal
import sys
from typing import Any

import uvicorn

from .spoil import spoil


def serve(job: dict[str, Any]) -> None:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(job["settings"])
    if job["spoilt"]:
        spoil(*job["spoilt"])
    # Imported only now, when the settings of this one are in the environment.
    app = importlib.import_module("app.main").app
    # What the address of a client is, a layer decides.
    uvicorn.run(app, host="127.0.0.1", port=job["port"], proxy_headers=False)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    sys.path.insert(0, sys.argv[1])
    importlib.import_module("app.middleware")  # once, for all forks
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                serve(json.loads(line))
            finally:
                # Not sys.exit: the child must not go on as a second copy of the parent.
                os._exit(1)
    # A request that hangs on purpose would hold a server back; the group is this script's own.
    os.killpg(0, signal.SIGKILL)
