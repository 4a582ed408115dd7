"""Whatever bytes come, and in whatever pieces, the engine gives the same events and never fails."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER, RdsHeader
from rdstool.protocol.framing import LONG_BYTES
from rdstool.protocol.link import Link
from rdstool.protocol.node import Node
from tests.kit.buffers import scatter

LOCAL, PEER = "10.0.0.2", "10.0.0.1"

FEW_PORTS = st.sampled_from((0, 1, 2, 4000, 4001, 65535))
EXTENSIONS = st.one_of(
    st.just(bytes(16)),
    st.just(bytes.fromhex("050008063fca604d0800") + bytes(6)),
    st.just(bytes.fromhex("05000206000000010800") + bytes(6)),
    st.binary(min_size=16, max_size=16),
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """One message whose length is true; all else may be anything."""
    length = draw(st.one_of(st.integers(0, 60), st.just(8192), st.integers(LONG_BYTES, 2 * LONG_BYTES)))
    header = RdsHeader(
        sequence=draw(st.one_of(st.integers(0, 8), st.integers(0, 2**64 - 1))),
        length=length,
        sport=draw(FEW_PORTS),
        dport=draw(FEW_PORTS),
        flags=draw(st.one_of(st.sampled_from((0, 1, 4)), st.integers(0, 255))),
        exthdr=draw(EXTENSIONS),
    )
    return RDS_HEADER.pack(header) + draw(st.binary(min_size=1, max_size=1)) * length


STREAMS = st.lists(messages(), max_size=12).map(b"".join)


@st.composite
def rows(draw: st.DrawFn) -> bytes:
    """Long messages of one length in a row, now and then another one among them."""
    payload = bytes(draw(st.integers(LONG_BYTES, LONG_BYTES + 1)))
    long = st.integers(1, 2**64 - 1).map(
        lambda sequence: RDS_HEADER.pack(RdsHeader(sequence, length=len(payload), sport=4000, dport=4001)) + payload
    )
    return b"".join(draw(st.lists(st.one_of(long, long, long, messages()), min_size=4, max_size=20)))


def listening(greeted: bool = True) -> tuple[Node, Link]:
    """A node that has accepted one connection, with two sockets that read nothing."""
    node = Node(LOCAL, random=Random(1))
    for port in (4000, 4001):
        socket = node.socket()
        socket.bind(LOCAL, port)
        socket.rcvbuf = 50
    link = node.accepted(LOCAL, PEER, 32776, 0.0)
    assert link is not None
    if greeted:
        node.bytes_received(link, RDS_HEADER.pack(RdsHeader(sport=1)), 0.0)
    return node, link


def outcome(pieces: list[bytes], greeted: bool) -> tuple[object, ...]:
    """Everything that can be seen of a node after these bytes."""
    node, link = listening(greeted)
    for piece in pieces:
        node.bytes_received(link, piece, 1.0)
    counters = node.counters.as_dict()
    del counters["tcp_data_ready_calls"]
    sockets = [list(socket.received) for socket in node.ports[LOCAL].values()]
    sent = b"".join(node.data_to_send(link, 1 << 30))
    return [repr(event) for event in node.take_events()], counters, sockets, sent, [*node.trace]


@given(STREAMS, st.lists(st.integers(1, 200), max_size=40), st.booleans())
def test_pieces_make_no_difference(stream: bytes, sizes: list[int], greeted: bool) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    pieces.append(stream[at:])
    assert outcome([piece for piece in pieces if piece], greeted) == outcome([stream] if stream else [], greeted)


@given(st.one_of(STREAMS, rows()), st.lists(st.integers(1, 100_000), max_size=40))
def test_reading_into_the_room_of_a_payload_makes_no_difference(stream: bytes, sizes: list[int]) -> None:
    node, link = listening()
    plain, other = listening()
    at = 0
    for size in [*sizes, *[len(stream)] * 40]:
        room = link.deframer.room(size) if link.deframer.roomy else None
        piece = stream[at : at + (size if room is None else min(size, sum(map(len, room))))]
        at += len(piece)
        if not piece:
            break
        if room is None:
            node.bytes_received(link, piece, 1.0)
        else:
            scatter(piece, room)
            node.bytes_placed(link, len(piece), 1.0)
    plain.bytes_received(other, stream[:at], 1.0)
    taken, expected = ([list(socket.received) for socket in each.ports[LOCAL].values()] for each in (node, plain))
    assert taken == expected
    assert [repr(event) for event in node.take_events()] == [repr(event) for event in plain.take_events()]


@given(STREAMS, st.booleans())
def test_single_bytes_make_no_difference(stream: bytes, greeted: bool) -> None:
    stream = stream[:2000]
    single = [stream[at : at + 1] for at in range(len(stream))]
    assert outcome(single, greeted) == outcome([stream] if stream else [], greeted)


@given(st.lists(st.one_of(st.binary(max_size=300), STREAMS), max_size=8))
def test_garbage_gives_events_or_the_end_of_its_connection(pieces: list[bytes]) -> None:
    node, link = listening()
    for piece in pieces:
        node.bytes_received(link, piece, 1.0)
    assert link.deframer.held <= HEADER_BYTES + node.settings.limits.message_bytes
    node.take_events()
    node.connection_lost(link, "closed", 2.0)
    assert node.accepted(LOCAL, PEER, 32784, 3.0) is not None
