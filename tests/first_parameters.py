"""
Runs the tests of a rendered service, each with its first parameters alone: a script.

Started inside of the service, with the arguments of pytest. The other parameters vary what one
layer is given, and so do tests of one start a server each: neither turns on which other layers
are there. With `--of-every-service` that holds for the tests that every service has.
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


# The tests that every service has.
COMMON = (
    "tests/middleware/core/",
    *(f"tests/middleware/test_{name}.py" for name in ("public", "refusals", "stack")),
)


class FirstParameters:
    """A plugin that leaves out what comes second."""

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        parser.addoption("--of-every-service", action="store_true")

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        concerned = COMMON if config.getoption("--of-every-service") else ("",)
        known = {*SLOW}
        kept: list[pytest.Item] = []
        left_out: list[pytest.Item] = []
        for item in items:
            name = item.nodeid.partition("[")[0]
            is_second = name.startswith(concerned) and name in known
            (left_out if is_second else kept).append(item)
            known.add(name)
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


if __name__ == "__main__":
    sys.exit(pytest.main(plugins=[FirstParameters()]))
