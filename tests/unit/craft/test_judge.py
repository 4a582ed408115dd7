"""What meets an expectation, and what is against it."""

from __future__ import annotations

import pytest

from dissectors.wire.extensions import NPaths, build_extensions
from dissectors.wire.rds import Flags, RdsHeader
from rdstool.craft.hearing import Came
from rdstool.craft.judge import Differs, Seen, meets, words
from rdstool.craft.scenario import Expect

PONG = Came("pong", RdsHeader(sequence=3, dport=5000))
AGAIN = Came("pong", RdsHeader(sequence=3, dport=5000, flags=Flags.RETRANSMITTED))
ANSWER = Came("probe-reply", RdsHeader(dport=1, exthdr=build_extensions([NPaths(4)])))


def expect(*outcomes: str, count: int = 1, **fields: int) -> Expect:
    return Expect(1, outcomes, "first", 1.0, fields, count)


@pytest.mark.parametrize(
    ("came", "step", "met"),
    [
        (PONG, expect("pong"), True),
        (PONG, expect("pong", dport=5000), True),
        (PONG, expect("pong", dport=5001), False),
        (PONG, expect("probe-reply"), False),
        (PONG, expect("pong", count=2), False),
        (AGAIN, expect("pong"), False),
        (AGAIN, expect("silence"), False),
        (AGAIN, expect("pong", flags=4), True),
        (ANSWER, expect("probe-reply", npaths=4), True),
        (ANSWER, expect("probe-reply", gen_num=1), False),
        (Came("reset"), expect("closed", "reset"), True),
        (Came("congestion", RdsHeader(flags=1)), expect("silence"), False),
    ],
)
def test_a_message_meets_an_expectation_or_is_passed_over(came: Came, step: Expect, met: bool) -> None:
    assert meets(came, step, Seen()) is met


def test_the_last_of_several_meets_it() -> None:
    seen = Seen()
    assert [meets(PONG, expect("pong", count=3), seen) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("came", "step", "difference"),
    [
        (Came("reset"), expect("pong"), "the connection was reset"),
        (Came("closed"), expect("silence"), "the connection was closed"),
        (PONG, expect("silence"), "pong seq 3 0 > 5000 len 0 came"),
    ],
)
def test_what_is_against_an_expectation_ends_it(came: Came, step: Expect, difference: str) -> None:
    with pytest.raises(Differs, match=difference):
        meets(came, step, Seen())


def test_what_was_wrong_with_a_message_of_the_right_kind_is_kept() -> None:
    seen = Seen()
    meets(ANSWER, expect("probe-reply", npaths=8), seen)
    assert seen.near == "; a probe-reply had npaths 4 instead of 8"


def test_an_expectation_is_told_in_words() -> None:
    assert words(expect("pong", "closed", count=2, dport=7)) == "pong or closed dport 7 2 times"
