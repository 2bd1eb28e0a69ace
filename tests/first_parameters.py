"""
Runs the tests of a rendered service, each with its first parameters alone: a script.

Started inside of the service, with the arguments of pytest. The other parameters vary what one
layer is given, and so do tests of one start a server each: neither turns on which other layers
are there.
"""

import sys

import pytest

# Each of them starts processes and takes seconds, which is a quarter of the whole.
SLOW = {
    "tests/middleware/core/test_explain.py::test_its_options_may_be_before_its_name",
    "tests/middleware/core/test_explain.py::test_the_command_draws_both",
    "tests/middleware/core/test_gauges.py::test_of_several_workers_the_least_or_the_sum_is_shown",
    "tests/middleware/test_metrics.py::test_a_second_app_in_a_worker_does_not_undo_the_count",
    "tests/middleware/test_metrics.py::test_several_workers_add_up",
    "tests/middleware/test_tracing.py::test_the_environment_says_where_spans_go",
    "tests/middleware/test_tracing.py::test_what_a_client_sends_fills_no_span",
}


class FirstParameters:
    """A plugin that leaves out what comes second."""

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        first: dict[str, pytest.Item] = {}
        for item in items:
            first.setdefault(item.nodeid.partition("[")[0], item)
        kept = [item for name, item in first.items() if name not in SLOW]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


if __name__ == "__main__":
    sys.exit(pytest.main(plugins=[FirstParameters()]))
