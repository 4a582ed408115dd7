"""RDS over InfiniBand with real kernels: userspace RoCE here, rds_rdma over rdma_rxe in the guest."""

from __future__ import annotations

import errno
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import product
from pathlib import Path

import pytest

import rdstool
from dissectors.wire.icrc import icrc_good
from rdstool.endpoint.blocking import Socket
from rdstool.endpoint.constants import SO_RCVBUF, SOL_SOCKET
from rdstool.lab.capture import Capture
from rdstool.lab.content import digest, payload
from rdstool.lab.rds import RdsSocket
from rdstool.lab.wire import Wire
from rdstool.protocol.control import RdmaArgs, RdmaDest, RdmaMap
from rdstool.protocol.errors import RdmaError, WouldBlock
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import Notification
from rdstool.validate.validator import validate
from tests.interop import rdma_program
from tests.interop.infiniband import BROKEN, BUFFER, CALLED, TIMEOUT_S, Meeting, await_port, until
from tests.interop.rdma_program import REQUEST, content
from tests.interop.roce import roce_packets

SIZES = (0, 1, 4095, 4096, 4097, 65536, 1 << 20)
RDMA_SIZES = (1, 4096, 10_000, 1 << 20)
PART = 500
"""Messages that a guest is asked to send or to receive in one go."""
CROSSING = "192.0.2.79"
"""Of ours: both sides ask at once for its connection."""
SERVED, ASKING = 5001, 5002
"""Ports of programs in the guest."""
PROGRAM = Path(rdma_program.__file__)
ENDING = pytest.mark.parametrize("own_guest", ["6.1", "newest"], indirect=True)
"""Kernels whose RDS lives on when a connection ends: see ``tests/interop/infiniband.py``."""
Away = Callable[[Wire], AbstractContextManager[None]]
"""Has the guest be away while the context lasts."""
PAGE = 4096
REGION = 2 * PAGE
TRIES = 5
"""Of an operation whose connection may end for another reason."""


@pytest.fixture(autouse=True)
def judged(meeting: Meeting, tmp_path: Path) -> Iterator[Capture]:
    """All frames of the test: messages in both directions, no error in them, and the ICRC of each is good."""
    with meeting.network.capture(tmp_path / "test.pcap") as recording:
        yield recording
    meeting.guest.rds.close_all()
    with rdstool.open_capture(str(recording.path)) as frames:
        errors = [str(each) for each in validate(frames) if each.severity.name == "ERROR"]
    assert errors == []
    packets = list(roce_packets(recording.path))
    assert packets
    assert all(icrc_good(packet) for packet in packets)
    with rdstool.open_capture(str(recording.path)) as frames:
        sources = {message.src for message in frames if message.complete}
    assert sources & {meeting.guest.address, meeting.guest.address6}
    assert len(sources) > 1


def exchange(meeting: Meeting, here: Socket, there: RdsSocket, seed: int, size: int, *, theirs_first: bool) -> None:
    """A message each way, one after the other."""
    rds, theirs = meeting.guest.rds, seed + 1000
    if theirs_first:
        rds.send(there, here.getsockname(), size=size, seed=theirs)
        assert here.recvfrom() == (payload(theirs, size), there.end)
    here.sendto(payload(seed, size), there.end)
    assert rds.receive(there, timeout_s=TIMEOUT_S).sha256 == digest(payload(seed, size))
    if not theirs_first:
        rds.send(there, here.getsockname(), size=size, seed=theirs)
        assert here.recvfrom() == (payload(theirs, size), there.end)


@pytest.mark.parametrize("role", ["smaller", "larger"])
def test_messages_of_all_sizes_go_both_ways_when_we_connect(meeting: Meeting, role: str) -> None:
    with meeting.ours(getattr(meeting.network, role)) as here:
        there = meeting.theirs()
        for seed, size in enumerate(SIZES):
            exchange(meeting, here, there, seed, size, theirs_first=False)
        here.sendto(b"", (meeting.guest.address, 0))
        assert here.recvfrom() == (b"", (meeting.guest.address, 0))
        here.drain(TIMEOUT_S)


def test_messages_of_all_sizes_go_both_ways_when_the_kernel_connects(meeting: Meeting) -> None:
    with meeting.ours(CALLED) as here:
        there = meeting.theirs()
        for seed, size in enumerate(SIZES):
            exchange(meeting, here, there, seed, size, theirs_first=True)
        meeting.guest.rds.send(there, (CALLED, 0), size=0)
        assert meeting.guest.rds.receive(there, timeout_s=TIMEOUT_S).length == 0
    assert not meeting.providers[CALLED].dialled


def test_datagrams_go_over_ipv6(meeting: Meeting) -> None:
    with meeting.ours(meeting.network.smaller6) as here:
        exchange(meeting, here, meeting.theirs(meeting.guest.address6), 1, 10_000, theirs_first=False)


@pytest.mark.timeout(900)  # 148 s were seen on a machine with four times as much to do as it can
def test_many_sockets_exchange_many_messages_both_ways(meeting: Meeting) -> None:
    count, each = 16, 313
    rds = meeting.guest.rds
    theirs = rds.open_many(count, meeting.guest.address, transport="ib", sndbuf=BUFFER, rcvbuf=BUFFER)
    with ExitStack() as opened:
        mine = [opened.enter_context(meeting.ours(meeting.network.smaller)) for _ in range(count)]
        plan = [(n, at, (n * 131 + at * 977) % 2000, n * each + at) for at in range(each) for n in range(count)]
        arrived = []
        for first in range(0, len(plan), PART):
            part = plan[first : first + PART]
            for n, at, size, seed in part:
                mine[n].sendto(payload(seed, size), theirs[(n + at) % count].end)
            sent = [(theirs[n], mine[(n + at) % count].getsockname(), size, seed) for n, at, size, seed in part]
            assert set(rds.send_many(sent, timeout_s=TIMEOUT_S)) == {None}
            arrived += rds.receive_many(theirs, len(part), timeout_s=TIMEOUT_S)
        assert sorted(message.sha256 for message in arrived) == sorted(digest(payload(s, z)) for _, _, z, s in plan)
        expected: dict[tuple[int, tuple[str, int]], list[bytes]] = {}
        for n, at, size, seed in plan:
            expected.setdefault(((n + at) % count, theirs[n].end), []).append(payload(seed, size))
        got: dict[tuple[int, tuple[str, int]], list[bytes]] = {}
        for number, socket in enumerate(mine):
            for _ in range(each):
                data, source = socket.recvfrom()
                got.setdefault((number, source), []).append(data)
        assert got == expected


def test_a_full_receiver_of_the_kernel_holds_us_back_and_lets_us_go_on(meeting: Meeting) -> None:
    there = meeting.theirs(rcvbuf=10_000)
    with meeting.ours(meeting.network.larger) as here:
        here.setblocking(False)
        sent: list[int] = []

        def refused() -> bool:
            try:
                here.sendto(payload(len(sent), 4000), there.end)
                sent.append(len(sent))
            except WouldBlock as reason:
                return reason.errno == errno.ENOBUFS
            return False

        until(refused)
        assert len(sent) >= 3
        arrived = meeting.guest.rds.receive_many([there], len(sent), timeout_s=TIMEOUT_S)
        assert [message.sha256 for message in arrived] == [digest(payload(seed, 4000)) for seed in sent]
        here.settimeout(TIMEOUT_S)
        here.sendto(b"free again", there.end)
        assert meeting.guest.rds.receive(there, timeout_s=TIMEOUT_S).sha256 == digest(b"free again")


def test_our_full_receiver_holds_the_kernel_back_and_lets_it_go_on(meeting: Meeting) -> None:
    there, rds = meeting.theirs(), meeting.guest.rds
    with meeting.ours(meeting.network.smaller) as here:
        here.setsockopt(SOL_SOCKET, SO_RCVBUF, 10_000)
        taken: list[int] = []

        def refused() -> bool:
            told = rds.send_many([(there, here.getsockname(), 4000, len(taken))], nonblocking=True)
            if told == [None]:
                taken.append(len(taken))
            return told == ["ENOBUFS"]

        until(refused)
        assert len(taken) >= 3
        for seed in taken:
            assert here.recv() == payload(seed, 4000)
        assert rds.send(there, here.getsockname(), size=10, seed=99, timeout_s=TIMEOUT_S) == 10
        assert here.recv() == payload(99, 10)


def test_the_kernel_reads_and_writes_memory_that_we_offer(meeting: Meeting) -> None:
    guest = meeting.guest
    program = guest.popen([sys.executable, "-S", str(PROGRAM), "serve", guest.address, str(SERVED)])
    await_port(guest, SERVED)
    with meeting.ours(meeting.network.smaller) as here:
        for seed, (operation, size) in enumerate(product("rw", RDMA_SIZES)):
            before = content(seed, size) if operation == "r" else bytes(size)
            offer = RdmaMap(bytearray(before))
            request = REQUEST.pack(operation.encode(), size, seed)
            here.sendmsg(request, (guest.address, SERVED), control=[offer])
            assert here.recv() == b"done"
            status, told = here.recv().split()
            wanted = content(seed, size)
            assert (status, told) == (b"0", hashlib.sha256(wanted).hexdigest().encode())
            assert bytes(offer.memory) == wanted
    program.kill()


def test_we_read_and_write_memory_that_the_kernel_offers(meeting: Meeting) -> None:
    guest = meeting.guest
    jobs = list(enumerate(product("rw", RDMA_SIZES)))
    # Two sockets: the next request may come before the notification of the last answer.
    with meeting.ours(meeting.network.smaller) as here, meeting.ours(meeting.network.smaller) as answering:
        own, port = here.getsockname()
        asked = [f"{operation},{size},{seed}" for seed, (operation, size) in jobs]
        command = [sys.executable, "-S", str(PROGRAM), "ask", guest.address, str(ASKING), own, str(port), *asked]
        program = guest.popen(command)
        for seed, (operation, size) in jobs:
            request = here.recvmsg()
            assert REQUEST.unpack(request.data) == (operation.encode(), size, seed)
            (offered,) = request.control
            assert isinstance(offered, RdmaDest)
            flags = RdmaFlags.NOTIFY_ME | (RdmaFlags.READWRITE if operation == "w" else RdmaFlags.FENCE)
            local = bytearray(content(seed, size) if operation == "w" else bytes(size))
            args = RdmaArgs(offered.cookie, [local], flags=flags, token=seed)
            answering.sendmsg(b"done", (request.address, request.port), control=[args])
            assert answering.recvmsg().control == (Notification(seed, SendStatus.ACKNOWLEDGED),)
            assert local == content(seed, size)
        told = program.wait(TIMEOUT_S).stdout.splitlines()
    assert told == [f"{hashlib.sha256(content(seed, size)).hexdigest()} done" for seed, (_, size) in jobs]


@pytest.mark.parametrize("fault", [("loss", "1%"), ("delay", "5ms", "reorder", "25%", "50%"), ("duplicate", "2%")])
def test_a_bad_network_loses_doubles_and_reorders_nothing(meeting: Meeting, fault: tuple[str, ...]) -> None:
    there, rds = meeting.theirs(), meeting.guest.rds
    with meeting.ours(meeting.network.smaller) as here, meeting.guest.wire.netem(*fault):
        sizes = [(seed * 613) % 12_000 for seed in range(60)]
        for seed, size in enumerate(sizes):
            here.sendto(payload(seed, size), there.end)
        plan = [(there, here.getsockname(), size, 1000 + seed) for seed, size in enumerate(sizes)]
        assert set(rds.send_many(plan)) == {None}
        arrived = rds.receive_many([there], len(sizes), timeout_s=TIMEOUT_S)
        assert [each.sha256 for each in arrived] == [digest(payload(seed, size)) for seed, size in enumerate(sizes)]
        assert [here.recv() for _ in sizes] == [payload(1000 + seed, size) for seed, size in enumerate(sizes)]


@ENDING
def test_requests_that_cross_refuse_each_other_and_nothing_is_lost(meeting: Meeting) -> None:
    there, rds = meeting.theirs(), meeting.guest.rds
    meeting.network.add_address(CROSSING)
    with meeting.ours(CROSSING) as here:
        before = rds.counters()["ib_connect_raced"]
        # The kernel asks, and its question takes so long that ours comes first.
        with meeting.guest.wire.netem("delay", "2s"):
            rds.send(there, here.getsockname(), size=5000, seed=1)
            until(lambda: CROSSING in {each["peer"] for each in rds.table("connections")})
            here.sendto(payload(2, 5000), there.end)
            until(lambda: rds.counters()["ib_connect_raced"] > before)
        assert here.recv() == payload(1, 5000)
        assert rds.receive(there, timeout_s=TIMEOUT_S).sha256 == digest(payload(2, 5000))


@ENDING
def test_a_queue_pair_in_error_is_replaced_and_nothing_is_lost(meeting: Meeting) -> None:
    there, rds = meeting.theirs(), meeting.guest.rds
    with meeting.ours(BROKEN) as here:
        exchange(meeting, here, there, 0, 5000, theirs_first=False)
        before = rds.counters()["conn_reset"]
        for seed in range(1, 10):
            here.sendto(payload(seed, 5000), there.end)
        plan = [(there, here.getsockname(), 5000, 100 + seed) for seed in range(20)]
        assert set(rds.send_many(plan[:10], timeout_s=TIMEOUT_S)) == {None}
        status = SendStatus.DROPPED
        for _ in range(TRIES):
            with pytest.raises(RdmaError) as caught:
                here.rdma_write(0xDEAD, b"nowhere", there.end, timeout_s=TIMEOUT_S)
            status = caught.value.status
            # A kernel that has dialled too may end the first connection at that very time, and nothing is known then.
            if status is not SendStatus.DROPPED:
                break
        assert status is SendStatus.REMOTE_ERROR
        for seed in range(10, 20):
            here.sendto(payload(seed, 5000), there.end)
        assert set(rds.send_many(plan[10:], timeout_s=TIMEOUT_S)) == {None}
        arrived = rds.receive_many([there], 19, timeout_s=TIMEOUT_S)
        assert [each.sha256 for each in arrived] == [digest(payload(seed, 5000)) for seed in range(1, 20)]
        assert [here.recv() for _ in plan] == [payload(100 + seed, 5000) for seed in range(20)]
        assert rds.counters()["conn_reset"] > before


@ENDING
def test_what_lies_behind_the_end_of_the_kernels_memory_is_refused_and_messages_go_on(meeting: Meeting) -> None:
    guest, there = meeting.guest, meeting.theirs()
    with meeting.ours(BROKEN) as here:
        own, port = here.getsockname()
        asking = [
            sys.executable,
            "-S",
            str(PROGRAM),
            "ask",
            guest.address,
            str(ASKING),
            own,
            str(port),
            f"r,{REGION},7",
        ]
        status = SendStatus.DROPPED
        for _ in range(TRIES):
            program = guest.popen(asking)
            (offered,) = here.recvmsg().control
            assert isinstance(offered, RdmaDest)
            with pytest.raises(RdmaError) as caught:
                # Whole pages are registered, and the region does not begin with one.
                here.rdma_write(offered.cookie, b"x", there.end, offset=REGION + PAGE, timeout_s=TIMEOUT_S)
            # The kernel ends no connection, and takes no other, while a process holds memory registered for it.
            program.kill()
            status = caught.value.status
            # As with a wrong key, above.
            if status is not SendStatus.DROPPED:
                break
        assert status is SendStatus.REMOTE_ERROR
        exchange(meeting, here, there, 1, 5000, theirs_first=False)


def silent(wire: Wire) -> AbstractContextManager[None]:
    """What the guest sends is lost."""
    return wire.netem("loss", "100%")


def unplugged(wire: Wire) -> AbstractContextManager[None]:
    """Its port is down, and it knows that.

    Not ``ip link set down``: what Soft-RoCE sends then puts the queue pair in error. On 7.3 that was seen to be queue
    pair 1, and no REQ was answered any more; on 6.1 nothing came through for more than 90 s.
    """
    return wire.unplugged()


AWAY = pytest.mark.parametrize("away", [silent, unplugged])


@AWAY
def test_a_kernel_that_is_away_for_a_while_loses_nothing(meeting: Meeting, away: Away) -> None:
    there = meeting.theirs()
    with meeting.ours(meeting.network.larger) as here:
        exchange(meeting, here, there, 0, 5000, theirs_first=False)
        with away(meeting.guest.wire):
            send_both_ways(meeting, here, there)
        all_came(meeting, here, there)
        exchange(meeting, here, there, 20, 5000, theirs_first=True)


@ENDING
@AWAY
def test_a_connection_that_breaks_while_the_kernel_is_away_is_made_again(meeting: Meeting, away: Away) -> None:
    there = meeting.theirs()
    with meeting.ours(BROKEN) as here:
        exchange(meeting, here, there, 0, 5000, theirs_first=False)
        before = meeting.providers[BROKEN].dialled
        with away(meeting.guest.wire):
            send_both_ways(meeting, here, there)
            until(lambda: meeting.providers[BROKEN].dialled > before)
        all_came(meeting, here, there)
        exchange(meeting, here, there, 20, 5000, theirs_first=True)


def send_both_ways(meeting: Meeting, here: Socket, there: RdsSocket) -> None:
    """Messages that no buffer holds back."""
    for seed in range(1, 20):
        here.sendto(payload(seed, 5000), there.end)
    plan = [(there, here.getsockname(), 5000, 100 + seed) for seed in range(1, 20)]
    assert set(meeting.guest.rds.send_many(plan)) == {None}


def all_came(meeting: Meeting, here: Socket, there: RdsSocket) -> None:
    """Those have arrived, in order, and each once."""
    arrived = meeting.guest.rds.receive_many([there], 19, timeout_s=TIMEOUT_S)
    assert [each.sha256 for each in arrived] == [digest(payload(seed, 5000)) for seed in range(1, 20)]
    assert [here.recv() for _ in range(1, 20)] == [payload(100 + seed, 5000) for seed in range(1, 20)]


def test_a_kernel_that_was_booted_anew_is_met_again(meeting: Meeting) -> None:
    with meeting.ours(BROKEN) as here:
        exchange(meeting, here, meeting.theirs(), 0, 5000, theirs_first=False)
        meeting.renew()
        there = meeting.theirs()
        for seed in range(1, 20):
            here.sendto(payload(seed, 5000), there.end)
        arrived = meeting.guest.rds.receive_many([there], 19, timeout_s=TIMEOUT_S)
        assert [each.sha256 for each in arrived] == [digest(payload(seed, 5000)) for seed in range(1, 20)]
        exchange(meeting, here, there, 20, 5000, theirs_first=True)
