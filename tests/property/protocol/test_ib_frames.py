"""Whatever frames and private data come, the engine gives events, or ends that connection, and never fails."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dissectors.wire.checksum import with_checksum
from dissectors.wire.rds import RdsHeader
from rdstool.protocol.ib.header import checksum_fits, pack_frame_header, read_frame_header
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.ib.private import Greeting
from rdstool.protocol.node import Node
from tests.unit.protocol.ib.driving import ONE, TWO, bound, make_node, memories_of

PORTS = st.sampled_from((0, 1, 2, 4000, 4001, 65535))
EXTENSIONS = st.one_of(
    st.just(bytes(16)),
    st.just(bytes.fromhex("0200000100") + bytes(11)),
    st.just(bytes.fromhex("030000010000000010") + bytes(7)),
    st.binary(min_size=16, max_size=16),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame whose checksum is right; its length may be true, or too long, or too short."""
    length = draw(st.one_of(st.integers(0, 60), st.sampled_from((4096, 5000, 8192, 1 << 20, 1 << 21))))
    header = RdsHeader(
        sequence=draw(st.one_of(st.integers(0, 4), st.integers(0, 2**64 - 1))),
        ack=draw(st.one_of(st.integers(0, 4), st.integers(0, 2**64 - 1))),
        length=length,
        sport=draw(PORTS),
        dport=draw(PORTS),
        flags=draw(st.one_of(st.sampled_from((0, 1, 2, 6, 0x22)), st.integers(0, 255))),
        credit=draw(st.integers(0, 255)),
        exthdr=draw(EXTENSIONS),
    )
    data = bytes(draw(st.one_of(st.just(min(length, 4096)), st.integers(0, 4096))))
    return with_checksum(header) + data


def connected() -> tuple[Node, IbLink]:
    """A node with a connection, two sockets that read nothing, and memory that it offers."""
    node = make_node(TWO, ib_flow_control=True, ib_max_recv_wr=16)
    for port in (4000, 4001):
        socket = bound(node, port)
        socket.rcvbuf = 50
        socket.offer_memory(bytearray(8), RdmaFlags.USE_ONCE)
    socket.sendmsg(b"waits for an answer", ONE, 4000, now=0.0)
    node.take_events()
    link = node.connections[TWO, ONE, 0].lane.link  # type: ignore[union-attr]
    node.ib.receives_to_post(link)
    node.ib.established(link, Greeting(ONE, TWO, credit=5).pack(), 0.0)
    return node, link


@given(st.lists(st.one_of(frames(), st.binary(max_size=100)), max_size=12))
def test_frames_give_events_or_the_end_of_their_connection(received: list[bytes]) -> None:
    node, link = connected()
    for frame in received:
        node.ib.frames_received(link, [frame], 1.0)
        node.ib.receives_to_post(link)
        for work in node.ib.work_to_post(link):
            node.ib.work_completed(link, work.id, 0, 1.0)
        assert link.assembler.held <= node.settings.limits.message_bytes
        assert link.flow is None or not link.flow.send.overflown
        assert not link.posted
    assert len(memories_of(node).regions) <= 2
    node.connection_lost(link, "ended", 2.0)
    assert node.ib.requested(TWO, ONE, Greeting(ONE, TWO).pack(), 3.0) is not None


@given(st.binary(max_size=92))
def test_private_data_gives_a_connection_or_a_refusal(data: bytes) -> None:
    node = make_node(TWO)
    node.ib.requested(TWO, ONE, data, 0.0)
    node = make_node(TWO)
    bound(node).sendmsg(b"x", ONE, 4000, now=0.0)
    link = node.connections[TWO, ONE, 0].lane.link  # type: ignore[union-attr]
    node.ib.established(link, data, 0.0)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 1 << 20), st.integers(0, 255), EXTENSIONS)
def test_a_header_is_read_as_it_was_made(sequence: int, ack: int, length: int, credit: int, exthdr: bytes) -> None:
    made = pack_frame_header(sequence, ack, length, 4000, 4001, 2, credit, exthdr)
    read = read_frame_header(made)
    assert read[:-2] == (sequence, ack, length, 4000, 4001, 2, credit)
    assert read.exthdr == exthdr
    assert checksum_fits(read, made)
