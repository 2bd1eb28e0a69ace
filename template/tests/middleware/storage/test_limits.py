"""Limits: a rate is a number and a period."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.middleware.storage.limits import Rate


@pytest.mark.parametrize("rate", ["1/second", "100/minute", "1000/hour", "999999999/day"])
def test_a_rate_is_a_number_and_a_period(rate: str) -> None:
    checked: Any = TypeAdapter(Rate).validate_python(rate)

    assert checked == rate


@pytest.mark.parametrize(
    "rate", ["", "100", "0/minute", "-1/minute", "1.5/minute", "100/week", "100 minute", "1/1"]
)
def test_nonsense_is_refused(rate: str) -> None:
    with pytest.raises(ValidationError, match="must be a number above 0 and a period"):
        TypeAdapter(Rate).validate_python(rate)
