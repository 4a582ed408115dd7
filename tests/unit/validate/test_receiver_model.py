"""What a receiver does with a message's number, and how credits are counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdstool.protocol.credits import CREDIT_LIMIT, SendCredits
from rdstool.protocol.receive_rule import Expected, Verdict, is_duplicate
from rdstool.validate.rules.credit import Account, Spent


@pytest.mark.parametrize(
    ("sequence", "flagged", "expected", "dropped"),
    [(4, True, 5, True), (5, True, 5, False), (4, False, 5, False), (9, False, 5, False), (1, True, 0, False)],
)
def test_only_flagged_messages_below_the_expected_number_are_dropped(
    sequence: int, flagged: bool, expected: int, dropped: bool
) -> None:
    assert is_duplicate(sequence, flagged, expected) is dropped


def test_a_lower_number_without_the_flag_sets_the_expectation_back() -> None:
    state = Expected(10, 10)
    assert state.receive(3, retransmitted=False, arrived=True) is Verdict.ACCEPTED
    assert (state.low, state.high) == (4, 4)


def test_what_may_have_arrived_leaves_both_possible() -> None:
    state = Expected(5, 5)
    assert state.receive(5, retransmitted=False, arrived=False) is Verdict.ACCEPTED
    assert state.receive(5, retransmitted=True, arrived=True) is Verdict.EITHER
    assert (state.low, state.high) == (6, 6)


class Kernel:
    """The rule as the kernel has it, with all knowledge."""

    def __init__(self) -> None:
        self.next = 0

    def accepts(self, sequence: int, flagged: bool) -> bool:
        if sequence < self.next and flagged:
            return False
        self.next = sequence + 1
        return True


@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.sampled_from(["acked", "arrived", "lost"])), max_size=30)
)
def test_what_is_concluded_without_full_knowledge_is_true(messages: list[tuple[int, bool, str]]) -> None:
    kernel, state = Kernel(), Expected()
    for sequence, flagged, fate in messages:
        verdict = state.receive(sequence, retransmitted=flagged, arrived=fate == "acked")
        if fate != "lost":
            accepted = kernel.accepts(sequence, flagged)
            assert verdict is Verdict.EITHER or (verdict is Verdict.ACCEPTED) == accepted
        assert state.low <= kernel.next <= state.high


def test_each_send_costs_a_credit() -> None:
    account = SendCredits(3)
    assert account.spend(2)
    assert not account.spend(2)
    account.grant(2)
    assert account.spend(2)


def test_too_many_credits_run_over() -> None:
    account = SendCredits(CREDIT_LIMIT - 1)
    assert not account.overflown
    account.grant(1)
    assert account.overflown


def spent(frame: int) -> Spent:
    return Spent(frame, 0, None)


def test_a_grant_that_comes_to_light_late_covers_what_was_sent_behind_it() -> None:
    account = Account(1)
    for frame in (10, 20, 30, 40):
        account.spend(spent(frame))
    account.grant(1, frame=15)
    account.grant(3, frame=35)
    assert account.overspent(before=31) == [spent(30)]
    assert account.overspent(before=100) == []
    assert account.credits.available == 2


def test_a_grant_does_not_cover_what_was_sent_before_it() -> None:
    account = Account(0)
    account.spend(spent(10))
    account.grant(1, frame=11)
    account.spend(spent(12))
    assert account.overspent(before=11) == [spent(10)]
    assert account.credits.available == 0
