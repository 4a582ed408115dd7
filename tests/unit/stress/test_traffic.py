"""What each side checks of the messages that come (protocol.md §12.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dissectors.wire.stress import STRESS_MESSAGE, pattern
from rdstool.stress.failure import StressError
from rdstool.stress.parameters import Parameters
from rdstool.stress.traffic import Pair


def pairs(depth: int = 1, request_bytes: int = 1024) -> tuple[Pair, Pair]:
    parameters = Parameters(depth=depth, request_bytes=request_bytes)
    one, other = ("10.0.0.1", 4001), ("10.0.0.2", 4002)
    return Pair(one, other, parameters), Pair(other, one, parameters)


def test_requests_and_acks_share_one_sequence_and_acks_name_their_slot() -> None:
    one, other = pairs(depth=3)
    requests = [one.next_request(b"")[0] for _ in range(3)]
    for request in requests:
        other.request_came(request)
    acks = [other.next_ack(b"")[0] for _ in range(3)]
    back = other.next_request(b"")[0]
    assert [STRESS_MESSAGE.unpack_from(each).index for each in (*requests, *acks)] == [0, 1, 2, 0, 1, 2]
    assert [STRESS_MESSAGE.unpack_from(each).seq for each in (*acks, back)] == [0, 1, 2, 3]
    for ack in acks:
        one.ack_came(ack, 0.0)
    one.request_came(back)
    assert (one.outstanding, one.owed, other.outstanding) == (0, 1, 1)


def request(pair: Pair) -> bytes:
    message, _ = pair.next_request(b"")
    return message


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda pair: [request(pair), request(pair)][1], "seq 1 instead of 0, index 1 instead of 0"),
        (lambda pair: b"\0\0\0\0\x7f" + request(pair)[5:], r"from_addr 127\.0\.0\.1 instead of 10\.0\.0\.1"),
        (lambda pair: request(pair)[:14] + b"\0\x63" + request(pair)[16:], "to_port 99 instead"),
    ],
    ids=["one is missing", "another address", "another port"],
)
def test_a_message_that_was_not_to_come_is_told_field_by_field(spoil: Callable[[Pair], bytes], complaint: str) -> None:
    one, other = pairs(depth=4)
    with pytest.raises(StressError, match=complaint):
        other.request_came(spoil(one))


def test_more_requests_than_agreed_are_refused() -> None:
    one, other = pairs(depth=1)
    other.request_came(one.next_request(b"")[0])
    with pytest.raises(StressError, match="more than 1 requests outstanding"):
        other.request_came(one.next_request(b"")[0])


def test_an_ack_for_nothing_is_refused() -> None:
    one, other = pairs()
    one.request_came(other.next_request(b"")[0])
    ack = one.next_ack(b"")[0]
    other.ack_came(ack, 0.0)
    with pytest.raises(StressError, match="acks a request that was not made"):
        other.ack_came(ack, 0.0)


def test_the_pattern_is_what_verified_messages_carry() -> None:
    one, _ = pairs(request_bytes=100)
    assert one.next_request(pattern(37))[0][63:] == pattern(37)
