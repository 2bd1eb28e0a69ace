"""Tests for the memo."""

from app.middleware.core.headers import LONGEST
from app.middleware.core.memo import Memo


def test_a_value_is_found_once() -> None:
    asked: list[str] = []

    def decide(key: str) -> int:
        asked.append(key)
        return len(key)

    memo = Memo(decide, most=10)
    assert (memo["abc"], memo["abc"], asked) == (3, 3, ["abc"])


def test_the_oldest_makes_room() -> None:
    memo = Memo(str.upper, most=2)
    assert [memo[key] for key in ("a", "b", "c")] == ["A", "B", "C"]
    assert [*memo] == ["b", "c"]


def test_long_keys_are_not_remembered() -> None:
    memo = Memo(bytes.upper, most=2)
    assert memo[b"a" * 256] == b"A" * 256
    assert memo[b"a" * 255] == b"A" * 255
    assert [len(key) for key in memo] == [255]


def test_a_key_that_is_too_long_counts_as_empty() -> None:
    memo: Memo[str, int] = Memo(len, most=2)
    assert (memo["a" * LONGEST], memo["a" * (LONGEST + 1)]) == (LONGEST, 0)
