"""Whatever a network or a capture does to the segments, no message is ever shown that was not sent."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.capture.tcp_conversation import Conversation, data, decode, handshake

payloads = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.integers(0, 9000).map(bytes),
        st.tuples(st.integers(1, 10**6), st.binary(max_size=80)).map(lambda pair: data(pair[0], pair[1]) * 3),
    ),
    min_size=1,
    max_size=12,
)
"""Random bytes, zeros, and payloads that hold RDS messages themselves."""


def stream_of(bodies: list[bytes]) -> bytes:
    """Return a connection's bytes: handshake, then one message each."""
    return handshake() + b"".join(data(n + 2, body) for n, body in enumerate(bodies))


@settings(max_examples=60, deadline=None)
@given(bodies=payloads, size=st.integers(20, 3000), chunk=st.integers(1, 40), isn=st.integers(0, 2**32 - 1))
def test_chunking_does_not_matter(bodies: list[bytes], size: int, chunk: int, isn: int) -> None:
    segments = Conversation(isn=(isn, 1)).syn().stream(stream_of(bodies), size).segments
    whole, parts = decode(segments), decode(segments, chunk)
    assert whole.payloads[2:] == bodies
    assert parts.payloads == whole.payloads
    assert [row.tobytes() for row in parts.rows] == [row.tobytes() for row in whole.rows]


@settings(max_examples=60, deadline=None)
@given(bodies=payloads, size=st.integers(100, 3000), shuffle=st.randoms(use_true_random=False))
def test_reordering_and_repetition_within_a_window_change_nothing(
    bodies: list[bytes], size: int, shuffle: object
) -> None:
    rng = shuffle
    segments = Conversation().syn().stream(stream_of(bodies), size).segments
    opening, rest = segments[:2], segments[2:]
    keyed = [(n + rng.random() * 6, item) for n, item in enumerate(rest) for _ in range(rng.randint(1, 2))]  # type: ignore[attr-defined]
    moved = [item for _, item in sorted(keyed, key=lambda pair: pair[0])]
    result = decode(opening + moved, 5)
    assert result.payloads[2:] == bodies
    assert all(result.complete)


@settings(max_examples=100, deadline=None)
@given(
    bodies=payloads,
    size=st.integers(60, 2000),
    lost=st.sets(st.integers(0, 60), max_size=6),
    start=st.integers(0, 3),
    chunk=st.integers(1, 40),
)
def test_holes_never_make_up_messages(bodies: list[bytes], size: int, lost: set[int], start: int, chunk: int) -> None:
    stream = stream_of(bodies)
    talk = Conversation().syn().stream(stream, size)
    kept = [item for n, item in enumerate(talk.segments) if n not in lost][start:]
    end = Conversation().ack(len(stream)).segments
    result = decode(kept + end, chunk)
    sent = {n + 2: body for n, body in enumerate(bodies)}
    for sequence, payload, whole in zip(result.sequences, result.payloads, result.complete, strict=True):
        if sequence > 1 and whole and sequence in sent:
            assert payload == sent[sequence] or payload in {part for body in bodies for part in _nested(body)}


def _nested(body: bytes) -> list[bytes]:
    """Return the payloads of messages that a payload may hold: seen alone, they cannot be told from real ones."""
    return [body[at + 48 : at + 48 + int.from_bytes(body[at + 16 : at + 20], "big")] for at in range(len(body) - 47)]


@settings(max_examples=60, deadline=None)
@given(junk=st.lists(st.binary(max_size=400), max_size=20), offsets=st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_garbage_never_crashes(junk: list[bytes], offsets: list[int]) -> None:
    talk = Conversation().syn()
    for piece, offset in zip(junk, offsets, strict=False):
        talk.send(offset, piece, flags=piece[0] if piece else 0)
    decode(talk.segments, 3)
