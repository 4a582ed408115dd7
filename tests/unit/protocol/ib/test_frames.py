"""Frames: header with checksum on each fragment, in order, one message at a time (protocol.md §7.4)."""

from __future__ import annotations

import pytest

from dissectors.wire.checksum import checksum_good
from dissectors.wire.rds import RDS_HEADER, Flags
from rdstool.protocol import events
from rdstool.protocol.ib.header import checksum_fits, pack_frame_header, read_frame_header
from rdstool.protocol.reasons import DropReason
from tests.unit.protocol.ib.driving import ONE, TWO, Fabric, bound, connection_of, pair, received


def test_the_checksum_that_linux_6_1_was_seen_to_send() -> None:
    header = pack_frame_header(1, 0, 0, 36268, 0, int(Flags.ACK_REQUIRED))
    assert header[30:32].hex() == "7052"
    assert checksum_fits(read_frame_header(header), header)


def test_a_header_without_checksum_fits_and_a_wrong_one_does_not() -> None:
    header = bytearray(pack_frame_header(7, 3, 10, 4000, 4001, 0, 5))
    header[0] ^= 1
    assert not checksum_fits(read_frame_header(bytes(header)), bytes(header))
    header[30:32] = b"\0\0"
    assert checksum_fits(read_frame_header(bytes(header)), bytes(header))


@pytest.mark.parametrize(
    ("length", "pieces"),
    [(0, [0]), (1, [1]), (4095, [4095]), (4096, [4096]), (4097, [4096, 1]), (8192, [4096, 4096])],
)
def test_a_message_is_cut_at_4096_bytes_and_its_last_frame_wakes_the_receiver(length: int, pieces: list[int]) -> None:
    one, two, fabric = pair()
    sender, receiver = bound(one), bound(two)
    data = bytes(index & 0xFF for index in range(length))
    sender.sendmsg(data, TWO, 4000, now=0.0)
    fabric.run()
    frames = [frame for frame in fabric.frames(ONE) if frame.header.sport]
    assert [len(frame.data) for frame in frames] == pieces
    assert [frame.solicited for frame in frames] == [False] * (len(pieces) - 1) + [True]
    assert len({RDS_HEADER.pack(frame.header) for frame in frames}) == 1
    assert all(checksum_good(RDS_HEADER.pack(frame.header)) for frame in frames)
    assert received(receiver) == [data]


def test_the_congestion_map_is_the_first_message_in_two_frames() -> None:
    one, two, fabric = pair()
    bound(two)
    bound(one).sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    first, second, third = fabric.frames(ONE)[:3]
    assert first.header.flags == second.header.flags == Flags.CONG_BITMAP
    assert (first.header.sequence, first.header.length, len(first.data), len(second.data)) == (0, 8192, 4096, 4096)
    assert third.header.sequence == 1


def broken_by(frames: list[bytes]) -> tuple[DropReason, Fabric]:
    """Why node two gave up a connection on which these frames came."""
    one, two, fabric = pair()
    bound(two)
    bound(one).sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    link = connection_of(two, ONE).lane.link
    assert link is not None
    for frame in frames:
        two.ib.frames_received(link, [frame], 0.0)
    assert link.deaf
    fabric.run()
    (down,) = [event for event in fabric.events if isinstance(event, events.PathDown) and event.local == TWO]
    return down.reason, fabric


def framed(sequence: int, length: int, data: bytes, sport: int = 4000) -> bytes:
    return pack_frame_header(sequence, 0, length, sport, 4000, 0) + data


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"short"], DropReason.BAD_FRAGMENT),
        ([b"\1" + framed(2, 1, b"x")[1:]], DropReason.BAD_CHECKSUM),
        ([framed(2, 5000, bytes(4095))], DropReason.BAD_FRAGMENT),
        ([framed(2, 5000, bytes(4096)), framed(3, 5000, bytes(904))], DropReason.BAD_FRAGMENT),
        ([framed(2, 5000, bytes(4096)), framed(2, 5000, bytes(904), sport=4001)], DropReason.BAD_FRAGMENT),
        ([framed(2, 5000, bytes(4096)), framed(2, 5001, bytes(905))], DropReason.BAD_FRAGMENT),
        ([framed(2, (1 << 20) + 1, bytes(4096))], DropReason.OVERSIZED_MESSAGE),
    ],
)
def test_a_frame_that_cannot_be_ends_the_connection(frames: list[bytes], reason: DropReason) -> None:
    assert broken_by(frames)[0] is reason


def test_a_bad_checksum_is_counted_and_its_acknowledgement_ignored() -> None:
    one, two, fabric = pair()
    bound(two)
    sender = bound(one)
    fabric.deaf.add(ONE)
    sender.sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    link = connection_of(one, TWO).lane.link
    assert link is not None
    ack = bytearray(pack_frame_header(0, 1, 0, 0, 0, 0))
    ack[30] ^= 0x10
    one.ib.frames_received(link, [bytes(ack)], 0.0)
    assert one.counters.recv_drop_bad_checksum == 1
    assert sender.outstanding == 1


def test_a_message_that_never_ends_holds_no_more_than_one_message() -> None:
    one, two, fabric = pair()
    bound(two)
    bound(one).sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    link = connection_of(two, ONE).lane.link
    assert link is not None
    for _ in range(256):
        two.ib.frames_received(link, [framed(2, 1 << 20, bytes(4096))], 0.0)
        assert link.assembler.held <= 1 << 20
    assert link.assembler.held == 0
