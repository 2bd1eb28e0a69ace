"""One target behind a server: `uvicorn benchmark.server:app`, with `BENCHMARK_TARGET`."""

import os

from .apps import make
from .workload import WORKLOADS

app = make(os.environ["BENCHMARK_TARGET"], limit=WORKLOADS["user"].limit, routes=1)
