"""
What each layer costs: the calls of a request with it, in units of one through bare FastAPI.

Exact counts, no timing. A bound is the measured ratio plus three in a hundred; raise one only
for a reason that convinces a user. And what a request made must be freed when it ends:
objects that hold each other wait for the garbage collector, which took a tenth of the rate over
sockets once. `benchmark` measures the rest.
"""

from typing import Final

import pytest

from .benchmark.targets import Target, Worker
from .benchmark.workload import WORKLOADS
from .conftest import Render
from .support import LAYERS

# "check" is the check of the order, which is first in every stack; with it comes the driver.
MEASURED: Final = {
    "check": 1.074,
    "tracing": 1.076,
    "proxy_headers": 1.081,
    "request_id": 1.116,
    "metrics": 1.114,
    "access_log": 1.129,
    "timing": 1.087,
    "security_headers": 1.100,
    "cors": 1.083,
    "error_handler": 1.094,
    "trusted_host": 1.079,
    "https_redirect": 1.090,
    "ip_filter": 1.074,
    "maintenance": 1.083,
    "readiness": 1.076,
    "client_version": 1.074,
    "required_headers": 1.074,
    "compression": 1.094,
    "timeout": 1.111,
    "rate_limit": 1.100,
    "body_limit": 1.079,
    "session": 1.087,
    "cross_origin": 1.076,
    "concurrency": 1.092,
    "authentication": 1.107,
    "user_rate_limit": 1.079,
    "idempotency": 1.076,
    "conditional": 1.151,
    "everything": 1.605,
}


@pytest.fixture
def calls(render: Render) -> dict[str, float]:
    """Return the calls of one request through bare FastAPI, each layer alone, and all of them."""
    service = render(preset="everything")
    targets = {
        "bare": "bare",
        **{name: f"only:{name}" for name in ("check", *LAYERS)},
        "everything": "stack",
    }
    with Worker(Target("everything", "stack", service)) as worker:
        for target in targets.values():
            worker.measure("cpu", "user", 20, target=target)
        return {
            name: worker.measure("calls", "user", 50, target=target)
            for name, target in targets.items()
        }


def test_no_layer_costs_more_than_its_bound(calls: dict[str, float]) -> None:
    ratios = {name: round(count / calls["bare"], 3) for name, count in calls.items()}

    assert {*LAYERS} <= {*MEASURED} <= {*ratios}
    dear = {name: ratios[name] for name, ratio in MEASURED.items() if ratios[name] > 1.03 * ratio}
    assert dear == {}


def test_no_request_is_left_to_the_garbage_collector(render: Render) -> None:
    service = render(preset="everything")
    left = {}
    with Worker(Target("everything", "stack", service)) as worker:
        for name in WORKLOADS:
            worker.measure("cpu", name, 5)
            left[name] = worker.measure("garbage", name, 5)

    assert left == dict.fromkeys(WORKLOADS, 0)
