"""A service whose backend takes two calls at a time: `uvicorn benchmark.backend:app`."""

import json
import os
import time
from threading import Semaphore

from app.middleware import StackSettings, stack_options
from fastapi import FastAPI

CONNECTIONS = 2
CALL_SECONDS = 0.1

app = FastAPI(**stack_options(StackSettings(), routes=json.loads(os.environ["ROUTES"])))
pool = Semaphore(CONNECTIONS)


@app.get("/backend")
def backend() -> str:
    """Hold a connection of the pool."""
    with pool:
        time.sleep(CALL_SECONDS)
    return "done"


@app.get("/alone")
def alone() -> str:
    """Need nothing but a thread."""
    return "done"
