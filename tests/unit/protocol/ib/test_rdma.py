"""RDMA and atomics (protocol.md §8)."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import pytest

from dissectors.wire.extensions import Rdma, RdmaBytes, parse_extensions
from dissectors.wire.rds import Flags
from rdstool.protocol.control import CompareSwap, FetchAdd, RdmaArgs, RdmaDest, RdmaMap, SendControl
from rdstool.protocol.errors import SocketError
from rdstool.protocol.ib.memory import Access, RdmaFlags, make_cookie, split_cookie
from rdstool.protocol.ib.operations import MaskedOperation
from rdstool.protocol.ib.work import CompareSwapWork, Read, Work, WorkStatus, Write
from rdstool.protocol.node import Node
from rdstool.protocol.profile import LINUX_6
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import Notification
from rdstool.protocol.sockets import Socket
from tests.unit.protocol.driving import bound as bound_tcp
from tests.unit.protocol.driving import make_node as make_tcp_node
from tests.unit.protocol.ib.driving import (
    ONE,
    TWO,
    Fabric,
    Frame,
    bound,
    connection_of,
    make_node,
    memories_of,
    pair,
    received,
)

WRITE = RdmaFlags.READWRITE
NOTIFY = RdmaFlags.NOTIFY_ME


class Scene:
    """A server on node one, and a client on node two that offers 100 bytes."""

    def __init__(self, **settings: object) -> None:
        self.one, self.two, self.fabric = pair(**settings)
        self.server, self.client = bound(self.one), bound(self.two)
        self.memory = bytearray(range(100))
        self.cookie = self.client.offer_memory(self.memory)
        self.fabric.run()

    def send(self, *control: SendControl, data: bytes = b"reply") -> None:
        self.server.sendmsg(data, TWO, 4000, now=self.fabric.now, control=control)
        self.fabric.run()


def data_frame(fabric: Fabric, sender: str = ONE) -> Frame:
    """The one data frame that was sent."""
    (frame,) = [frame for frame in fabric.frames(sender) if frame.header.sport]
    return frame


def notices(socket: Socket) -> list[object]:
    """What recvmsg has to tell besides messages."""
    told: list[object] = []
    while socket.poll() & 1:
        told += socket.recvmsg(now=socket.node.now).control
    return told


def kinds(work: Sequence[Work]) -> list[str]:
    return [type(each).__name__ for each in work]


def test_a_cookie_has_the_key_below_and_the_offset_above() -> None:
    assert make_cookie(0x300, 0x10) == 0x10_0000_0300
    assert split_cookie(0x10_0000_0300) == (0x300, 0x10)


def test_a_write_goes_before_its_message_which_tells_key_size_and_direction() -> None:
    scene = Scene()
    scene.send(RdmaArgs(scene.cookie, [b"ab", b"cd"], 10, flags=WRITE))
    assert scene.memory[9:15] == bytes((9,)) + b"abcd" + bytes((14,))
    assert kinds(scene.fabric.work) == ["Write"]
    header = data_frame(scene.fabric).header
    rkey = split_cookie(scene.cookie)[0]
    assert parse_extensions(header.exthdr).items == (Rdma(rkey), RdmaBytes(4, 1))
    assert header.flags == Flags.EXTHDR_EXTENSION | Flags.ACK_REQUIRED
    assert received(scene.client) == [b"reply"]
    assert (scene.one.counters.send_rdma, scene.one.counters.send_rdma_bytes) == (1, 4)


def test_kernels_below_7_tell_the_key_alone() -> None:
    one, two = make_node(ONE, profile=LINUX_6), make_node(TWO, seed=2, profile=LINUX_6)
    fabric = Fabric(one, two)
    client = bound(two)
    cookie = client.offer_memory(bytearray(8))
    bound(one).sendmsg(b"", TWO, 4000, now=0.0, control=[RdmaArgs(cookie, [b"x"], flags=WRITE)])
    fabric.run()
    header = data_frame(fabric).header
    assert parse_extensions(header.exthdr).items == (Rdma(split_cookie(cookie)[0]),)
    assert header.flags == Flags.ACK_REQUIRED


def test_a_read_fills_its_pieces_one_after_the_other() -> None:
    scene = Scene()
    pieces = [bytearray(3), bytearray(2)]
    scene.send(RdmaArgs(scene.cookie, pieces, 50, flags=RdmaFlags.FENCE))
    assert pieces == [bytearray((50, 51, 52)), bytearray((53, 54))]
    assert kinds(scene.fabric.work) == ["Read", "Read"]
    frame = data_frame(scene.fabric)
    assert frame.fence
    assert parse_extensions(frame.header.exthdr).items[1] == RdmaBytes(5, 2)
    assert len(memories_of(scene.one).regions) == 0


def test_atomics_give_what_was_there_before() -> None:
    scene = Scene()
    scene.memory[:8] = (5).to_bytes(8, "little")
    add = FetchAdd(scene.cookie, 3)
    scene.send(add)
    assert (int.from_bytes(add.result, "little"), scene.memory[0]) == (5, 8)
    swap = CompareSwap(scene.cookie, 8, 99)
    scene.send(swap)
    assert (int.from_bytes(swap.result, "little"), scene.memory[0]) == (8, 99)
    assert (scene.one.counters.ib_atomic_fadd, scene.one.counters.ib_atomic_cswp) == (1, 1)


def test_memory_offered_with_a_message_is_told_to_its_receiver() -> None:
    scene = Scene()
    scene.client.sendmsg(b"request", ONE, 4000, now=0.0, control=[RdmaDest(scene.cookie)])
    scene.fabric.run()
    assert scene.server.recvmsg(now=0.0).control == (RdmaDest(scene.cookie),)


def test_memory_for_one_use_is_void_after_the_message_that_used_it() -> None:
    scene = Scene()
    offer = RdmaMap(bytearray(10))
    scene.client.sendmsg(b"request", ONE, 4000, now=0.0, control=[offer])
    scene.fabric.run()
    before = len(memories_of(scene.two).regions)
    scene.send(RdmaArgs(offer.cookie, [b"once"], flags=WRITE))
    assert len(memories_of(scene.two).regions) == before - 1
    assert bytes(offer.memory[:4]) == b"once"
    scene.send(RdmaArgs(offer.cookie, [b"more"], flags=WRITE | NOTIFY, token=5))
    assert Notification(5, SendStatus.REMOTE_ERROR) in notices(scene.server)


def test_notification_comes_where_it_was_asked_for() -> None:
    scene = Scene()
    scene.send(RdmaArgs(scene.cookie, [b"x"], flags=WRITE, token=1))
    scene.send(RdmaArgs(scene.cookie, [b"x"], flags=WRITE | NOTIFY, token=2))
    assert notices(scene.server) == [Notification(2, SendStatus.ACKNOWLEDGED)]


def test_silent_rdma_sends_no_message() -> None:
    scene = Scene()
    scene.send(RdmaArgs(scene.cookie, [b"x"], flags=WRITE | RdmaFlags.SILENT), data=b"")
    assert scene.memory[0] == ord("x")
    assert [frame for frame in scene.fabric.frames(ONE) if frame.header.sport] == []
    assert scene.server.outstanding == 0
    assert connection_of(scene.one, TWO).lane.next_tx == 1


def test_rdma_of_a_lost_connection_is_not_done_again_but_reported() -> None:
    scene = Scene()
    scene.send(data=b"up")
    scene.fabric.completing = False
    for token, flags in ((1, WRITE | NOTIFY), (2, WRITE | NOTIFY | RdmaFlags.SILENT)):
        args = RdmaArgs(scene.cookie, [b"x"], flags=flags, token=token)
        scene.server.sendmsg(b"", TWO, 4000, now=0.0, control=[args])
    scene.server.sendmsg(b"plain", TWO, 4000, now=0.0)
    scene.fabric.run()
    scene.fabric.cut(scene.one, TWO)
    scene.fabric.frames(ONE)
    scene.fabric.work.clear()
    scene.fabric.completing = True
    scene.fabric.wait(1.0)
    assert scene.fabric.work == []
    assert [frame.data for frame in scene.fabric.frames(ONE) if frame.header.sport] == [b"plain"]
    assert sorted(map(str, notices(scene.server))) == [str(Notification(token, SendStatus.DROPPED)) for token in (1, 2)]


def test_recverr_reports_failures_that_nobody_asked_about() -> None:
    scene = Scene()
    scene.server.recverr = True
    scene.send(RdmaArgs(scene.cookie ^ 0xFF, [b"x"], flags=WRITE, token=9))
    assert notices(scene.server) == [Notification(9, SendStatus.REMOTE_ERROR)]


def test_memory_is_void_when_its_socket_is_closed() -> None:
    scene = Scene()
    scene.client.close()
    assert memories_of(scene.two).regions == {}


def test_access_is_what_the_flags_say() -> None:
    scene = Scene()
    scene.client.offer_memory(bytearray(8), RdmaFlags(0))
    writable, readable = memories_of(scene.two).regions.values()
    assert writable.access == Access.LOCAL_WRITE | Access.REMOTE_READ | Access.REMOTE_WRITE | Access.REMOTE_ATOMIC
    assert readable.access == Access.LOCAL_WRITE | Access.REMOTE_READ


def fails(number: int, socket: Socket, *control: SendControl, peer: str = TWO) -> None:
    with pytest.raises(SocketError) as caught:
        socket.sendmsg(b"", peer, 4000, now=0.0, control=control)
    assert caught.value.errno == number
    assert socket.outstanding == 0


def test_control_messages_that_cannot_be() -> None:
    scene = Scene()
    server, some = scene.server, [bytearray(8)]
    fails(errno.EINVAL, server, RdmaArgs(1, some), RdmaArgs(1, some))
    fails(errno.EINVAL, server, RdmaArgs(1, some), RdmaMap(bytearray(8)))
    fails(errno.EINVAL, server, RdmaArgs(1, []))
    fails(errno.EINVAL, server, RdmaArgs(1, some, remote_bytes=7))
    fails(errno.EMSGSIZE, server, RdmaArgs(1, [bytearray(1)] * 1025))
    fails(errno.EMSGSIZE, server, RdmaArgs(1, [bytearray((1 << 20) + 1)]))
    fails(errno.EFAULT, server, RdmaArgs(1, [b"read only"]))
    fails(errno.EINVAL, server, RdmaDest(scene.cookie))
    fails(errno.EMSGSIZE, server, RdmaMap(bytearray((1 << 20) + 1)))
    fails(errno.EFAULT, server, FetchAdd(1, 1, bytearray(4)))


def test_over_tcp_and_within_a_node_there_is_no_rdma() -> None:
    socket = bound_tcp(make_tcp_node())
    fails(errno.EOPNOTSUPP, socket, RdmaArgs(1, [b"x"], flags=WRITE))
    fails(errno.EOPNOTSUPP, socket, RdmaMap(bytearray(8)))
    fails(errno.EINVAL, socket, RdmaDest(1))
    scene = Scene()
    fails(errno.EOPNOTSUPP, scene.server, RdmaArgs(1, [b"x"], flags=WRITE), peer=ONE)


def test_memory_calls_on_sockets_that_have_none() -> None:
    scene = Scene()
    for call, number in (
        (lambda: scene.server.free_memory(5), errno.EINVAL),
        (lambda: scene.client.free_memory(scene.cookie ^ 1), errno.EINVAL),
        (lambda: scene.one.socket().offer_memory(bytearray(1)), errno.ENOTCONN),
        (lambda: scene.client.offer_memory(bytearray(0)), errno.EINVAL),
    ):
        with pytest.raises(SocketError) as caught:
            call()
        assert caught.value.errno == number
    scene.client.free_memory(0)
    scene.client.free_memory(scene.cookie)
    assert memories_of(scene.two).regions == {}


def test_operations_wait_for_room_in_the_send_ring() -> None:
    scene = Scene(ib_max_send_wr=2)
    scene.send(RdmaArgs(scene.cookie, [bytearray(1) for _ in range(7)]))
    assert kinds(scene.fabric.work) == ["Read"] * 7
    assert received(scene.client) == [b"reply"]


def works(node: Node) -> list[Work]:
    """For type checkers: what the scene's node would post."""
    link = connection_of(node, TWO).lane.link
    assert link is not None
    return node.ib.work_to_post(link)


def test_work_names_the_region_of_the_peer() -> None:
    scene = Scene()
    scene.send(data=b"up")
    scene.server.sendmsg(b"", TWO, 4000, now=0.0, control=[RdmaArgs(scene.cookie, [b"abc"], 4, flags=WRITE)])
    write = works(scene.one)[0]
    assert isinstance(write, Write)
    assert (bytes(write.data), write.address, write.rkey) == (b"abc", 4, split_cookie(scene.cookie)[0])
    assert not isinstance(write, Read)


def test_regions_and_what_rdma_moved_are_counted() -> None:
    scene = Scene()
    big = scene.client.offer_memory(bytearray(8193))
    scene.send(RdmaArgs(scene.cookie, [b"x" * 50], flags=WRITE))
    scene.client.free_memory(big)
    scene.client.close()
    found = scene.two.counters.as_dict()
    assert [found[f"ib_rdma_mr_{kind}"] for kind in ("8k_alloc", "8k_used", "8k_free")] == [1, 1, 1]
    assert [found[f"ib_rdma_mr_{kind}"] for kind in ("1m_alloc", "1m_used", "1m_free")] == [1, 1, 1]
    assert found["recv_rdma_bytes"] == scene.one.counters.send_rdma_bytes == 50
    assert found["ib_rx_cq_event"] == found["ib_rx_total_frags"] > 0


@pytest.mark.parametrize(
    ("atomic", "before", "after"),
    [
        (FetchAdd(0, 0x01FF, nocarry_mask=0x80), 0x0101, 0x0200),
        (FetchAdd(0, 1, nocarry_mask=1 << 31), 0xFFFF_FFFF, 0),
        (FetchAdd(0, -1, nocarry_mask=1 << 31), 1, 0xFFFF_FFFF_0000_0000),
        (CompareSwap(0, 0x12, 0x99, compare_mask=0xFF, swap_mask=0xF0), 0x3412, 0x3492),
        (CompareSwap(0, 0x13, 0x99, compare_mask=0xFF), 0x3412, 0x3412),
        (CompareSwap(0, 0xFF12, 5, compare_mask=0xFF), 0x3412, 5),
    ],
)
def test_masks_say_what_is_compared_replaced_and_added_apart(
    atomic: FetchAdd | CompareSwap, before: int, after: int
) -> None:
    scene = Scene()
    scene.memory[:8] = before.to_bytes(8, "little")
    made = replace(atomic, cookie=scene.cookie, flags=NOTIFY)
    scene.send(made)
    assert int.from_bytes(made.result, "little") == before
    assert int.from_bytes(scene.memory[:8], "little") == after
    assert notices(scene.server) == [Notification(0, SendStatus.ACKNOWLEDGED)]
    assert received(scene.client)[-1] == b"reply"


def test_an_atomic_with_masks_begins_anew_where_somebody_came_between() -> None:
    scene = Scene()
    scene.send(FetchAdd(scene.cookie, 0))
    values = iter((0x100, 0x200, 0x300, 0x300))
    socket = scene.server
    done: list[SendStatus] = []
    item = CompareSwap(scene.cookie, 0, 7, compare_mask=0xFF, swap_mask=0xFF, ended=done.append)
    operation = MaskedOperation(socket, item)
    number = count(1).__next__
    work = list(operation.start(number))
    swaps = []
    while work:
        assert operation.unfinished
        operation.done(WorkStatus.SUCCESS, next(values))
        work = list(operation.more(number))
        swaps += [(each.compare, each.swap) for each in work if isinstance(each, CompareSwapWork)]
    assert swaps == [(0x100, 0x107), (0x200, 0x207), (0x300, 0x307)]
    assert done == [SendStatus.ACKNOWLEDGED]
    assert int.from_bytes(item.result, "little") == 0x300


def test_an_atomic_with_masks_on_memory_that_refuses_ends_with_a_status() -> None:
    scene = Scene()
    scene.send(CompareSwap(scene.cookie ^ 1, 0, 7, swap_mask=0xFF, flags=NOTIFY, token=9))
    assert notices(scene.server) == [Notification(9, SendStatus.REMOTE_ERROR)]
