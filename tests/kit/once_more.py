"""A second chance for tests whose result is not ours alone."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def once_more(tests: Iterable[pytest.Item]) -> None:
    """Have tests run a second time where they fail; the report shows R for it, and in the end why they failed first.

    The time limit is for the function of the test each time, for one that ran over the whole would not begin again.
    """
    for test in tests:
        test.add_marker(pytest.mark.flaky(reruns=1))
        own = test.get_closest_marker("timeout")
        test.add_marker(pytest.mark.timeout(*(own.args if own else ()), func_only=True), append=False)


def runs_again(test: pytest.Item) -> bool:
    """It has failed once."""
    return getattr(test, "execution_count", 1) > 1
