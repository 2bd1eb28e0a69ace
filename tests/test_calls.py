"""
What each layer costs: the calls of a request with it, in units of one through bare FastAPI.

Exact counts, no timing. A bound is the measured ratio plus five in a hundred; raise one only
for a reason that you would tell a user.
"""

import json
import sys
from typing import Final

import pytest

from .conftest import Render
from .support import LAYERS, TESTS, run

# "check" is the check of the order, which stands first in every stack.
MEASURED: Final = {
    "check": 1.015,
    "tracing": 1.015,
    "proxy_headers": 1.064,
    "request_id": 1.076,
    "metrics": 1.152,
    "access_log": 1.168,
    "timing": 1.034,
    "security_headers": 1.064,
    "cors": 1.137,
    "error_handler": 1.024,
    "trusted_host": 1.037,
    "https_redirect": 1.088,
    "ip_filter": 1.018,
    "maintenance": 1.024,
    "client_version": 1.030,
    "required_headers": 1.018,
    "compression": 1.159,
    "timeout": 1.131,
    "rate_limit": 1.104,
    "body_limit": 1.058,
    "session": 1.058,
    "cross_origin": 1.018,
    "authentication": 1.067,
    "user_rate_limit": 1.021,
    "idempotency": 1.018,
    "conditional": 1.159,
    "everything": 2.472,
}


@pytest.fixture
def calls(render: Render) -> dict[str, float]:
    service = render(preset="everything")
    done = run(sys.executable, TESTS / "count_calls.py", cwd=service, PYTHONPATH=str(service))
    assert done.returncode == 0, done.stdout
    counted: dict[str, float] = json.loads(done.stdout)
    return counted


def test_no_layer_costs_more_than_its_bound(calls: dict[str, float]) -> None:
    ratios = {name: round(count / calls["bare"], 3) for name, count in calls.items()}

    assert {*LAYERS} <= {*MEASURED} <= {*ratios}
    dear = {name: ratios[name] for name, ratio in MEASURED.items() if ratios[name] > 1.05 * ratio}
    assert dear == {}
