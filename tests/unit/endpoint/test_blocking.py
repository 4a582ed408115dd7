"""Plain sockets of programs without an event loop."""

from __future__ import annotations

import errno
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import rdstool
from rdstool.endpoint import constants as c
from rdstool.endpoint.stack import Stack
from rdstool.errors import AddressError
from rdstool.protocol.control import ZerocopyCookie
from rdstool.protocol.errors import SocketError
from rdstool.protocol.received import Timestamp, ZerocopyCompletion
from tests.kit.loopback import own_addresses

CLOCK_STEP_S = 1.0
"""How far the two clocks of the system may drift from each other while a test runs."""


@pytest.fixture
def ends() -> Iterator[tuple[rdstool.Socket, rdstool.Socket]]:
    """Two bound sockets of two addresses."""
    with ExitStack() as opened:
        stack = opened.enter_context(Stack())
        pair = [opened.enter_context(rdstool.Socket(stack)) for _ in range(2)]
        for sock, address in zip(pair, own_addresses(2), strict=True):
            sock.bind((address, 4000))
        yield pair[0], pair[1]


def test_a_datagram_goes_there_and_back(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, other = ends
    one.sendto(b"hello", other.getsockname())
    assert other.recvfrom() == (b"hello", one.getsockname())
    other.connect(one.getsockname())
    other.send(b"and back")
    assert one.recv() == b"and back"


def test_a_stack_has_a_thread_only_while_it_has_an_address() -> None:
    before, addresses = threading.active_count(), own_addresses(2)
    with Stack() as stack:
        for _ in range(3):
            with rdstool.Socket(stack) as one, rdstool.Socket(stack) as other:
                assert threading.active_count() == before
                for sock, address in zip((one, other), addresses, strict=True):
                    sock.bind((address, 4000))
                one.sendto(b"hello", other.getsockname())
                assert other.recv() == b"hello"
            assert threading.active_count() == before
    assert threading.active_count() == before


def test_a_reader_in_another_thread_is_woken(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, other = ends
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(other.recv() for _ in range(1000)))
    reader.start()
    for number in range(1000):
        one.sendto(b"%d" % number, other.getsockname())
    reader.join()
    assert got == [b"%d" % number for number in range(1000)]


def test_threads_that_wait_at_one_address_each_get_what_is_theirs() -> None:
    readers, count = 5, 400
    with Stack() as stack, Stack() as far, rdstool.Socket(far) as sender, ExitStack() as opened:
        there, here = own_addresses(2)
        sender.bind((there, 4000))
        socks = [opened.enter_context(rdstool.Socket(stack)) for _ in range(readers)]
        for number, sock in enumerate(socks):
            sock.bind((here, 5000 + number))
        got: dict[int, list[bytes]] = {}

        def read(number: int) -> None:
            got[number] = [socks[number].recv() for _ in range(count)]

        threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
        for thread in threads:
            thread.start()
        for number in range(readers * count):
            sender.sendto(b"%d" % number, (here, 5000 + number % readers))
        for thread in threads:
            thread.join()
    assert got == {
        each: [b"%d" % number for number in range(each, readers * count, readers)] for each in range(readers)
    }


def test_closing_a_socket_ends_what_another_thread_waits_for_on_it(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, other = ends
    failures: list[OSError] = []

    def read() -> None:
        try:
            other.recv()
            other.recv()
        except SocketError as failure:
            failures.append(failure)

    reader = threading.Thread(target=read)
    reader.start()
    one.sendto(b"first", other.getsockname())
    one.drain()
    other.close()
    reader.join()
    assert [failure.errno for failure in failures] == [errno.EBADF]


def test_an_application_that_never_waits_is_served_all_the_same(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, other = ends
    one.sendto(b"waited for", other.getsockname())
    assert other.recv() == b"waited for"
    for number in range(20):
        one.sendto(b"%d" % number, other.getsockname())
    one.drain()
    other.setblocking(False)
    got: list[bytes] = []
    while len(got) < 20:
        try:
            got.append(other.recv())
        except BlockingIOError:
            continue
    assert got == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize(("recorded", "tcp_rcvbuf"), [(False, 0), (True, 0), (False, 8192)])
def test_long_messages_of_all_lengths_arrive_as_they_were_sent(recorded: bool, tcp_rcvbuf: int, tmp_path: Path) -> None:
    chance = random.Random(1)
    lengths = [
        1 << 20,
        1 << 20,
        16_384,
        16_383,
        1 << 20,
        0,
        70_000,
        70_000,
        *(chance.randrange(1 << 20) for _ in range(20)),
    ]
    sent = [chance.randbytes(length) for length in lengths]
    settings = rdstool.Settings(sndbuf=1 << 20, rcvbuf=1 << 20, tcp_rcvbuf=tcp_rcvbuf)
    options = rdstool.NodeOptions(settings, pcap=tmp_path / "recorded.pcapng" if recorded else None)
    with (
        Stack(rdstool.NodeOptions(settings)) as far,
        Stack(options) as near,
        rdstool.Socket(far) as one,
        rdstool.Socket(near) as other,
    ):
        for sock, address in zip((one, other), own_addresses(2), strict=True):
            sock.bind((address, 4000))
        to = other.getsockname()
        sender = threading.Thread(target=lambda: [one.sendto(each, to) for each in sent])
        sender.start()
        assert [other.recv() == each for each in sent] == [True] * len(sent)
        sender.join()
        one.drain()


def test_threads_send_and_receive_long_messages_at_once() -> None:
    paths, count = 4, 40
    options = rdstool.NodeOptions(rdstool.Settings(paths=paths, sndbuf=1 << 20, rcvbuf=1 << 20))
    chance = random.Random(2)
    sent = [chance.randbytes(chance.randrange(16_000, 300_000)) for _ in range(count)]
    got: dict[tuple[str, int], list[bool]] = {}

    def send(sock: rdstool.Socket, to: tuple[str, int]) -> None:
        for each in sent:
            sock.sendto(each, to)

    def receive(sock: rdstool.Socket) -> None:
        got[sock.getsockname()] = [sock.recv() == each for each in sent]

    with Stack(options) as far, Stack(options) as near, ExitStack() as opened:
        ends = []
        for stack, address in zip((far, near), own_addresses(2), strict=True):
            socks = [opened.enter_context(rdstool.Socket(stack)) for _ in range(paths)]
            for sock in socks:
                sock.bind((address, 0))
            ends.append(socks)
        threads = []
        for one, other in zip(*ends, strict=True):
            for here, there in ((one, other), (other, one)):
                threads.append(threading.Thread(target=send, args=(here, there.getsockname())))
                threads.append(threading.Thread(target=receive, args=(here,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for sock in (*ends[0], *ends[1]):
            sock.drain()
    assert list(got.values()) == [[True] * count] * (2 * paths)


def test_select_tells_when_there_is_a_message(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, other = ends
    one.sendto(b"first", other.getsockname())
    assert other.recv() == b"first"
    other.poll()  # takes note of the congestion map that came with the connection
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv()
    one.sendto(b"second", other.getsockname())
    assert select.select([other], [], [], 10)[0] == [other]
    assert other.recv() == b"second"
    assert select.select([other], [], [], 0)[0] == []


def test_messages_are_received_into_buffers(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    small, large = ends
    for text in (b"whole", b"cut short", b"", b"plain"):
        small.sendto(text, large.getsockname())
    room = bytearray(b"." * 8)
    assert large.recvfrom_into(room) == (5, small.getsockname())
    assert room == b"whole..."
    assert large.recv_into(memoryview(room)[1:], 3) == 3
    assert room == b"wcute..."
    assert large.recv_into(room) == 0
    with pytest.raises(ValueError, match="9 bytes are more than the buffer has"):
        large.recv_into(room, 9)
    assert large.recv() == b"plain"


def test_timeouts_are_those_of_the_standard_library(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, _ = ends
    one.settimeout(0.01)
    assert one.gettimeout() == 0.01
    with pytest.raises(TimeoutError):
        one.recv()


def test_waiting_is_set_and_read_as_in_the_standard_library(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, _ = ends
    assert one.getblocking()
    one.setblocking(False)
    assert (one.getblocking(), one.gettimeout()) == (False, 0.0)
    one.settimeout(2)
    assert (one.getblocking(), one.gettimeout()) == (True, 2)
    with pytest.raises(ValueError, match="Timeout value out of range"):
        one.settimeout(-1)


def test_a_closed_socket_has_no_descriptor_and_sends_nothing(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, other = ends
    one.connect(other.getsockname())
    one.send(b"x")
    one.close()
    assert one.fileno() == -1
    with pytest.raises(SocketError) as problem:
        one.send(b"x")
    assert problem.value.errno == errno.EBADF


def test_drain_waits_until_the_peer_has_everything(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, other = ends
    for _ in range(50):
        one.sendto(bytes(2000), other.getsockname())
    one.drain(timeout_s=30)
    assert one.unacknowledged == 0


def test_zerocopy_tells_by_a_cookie_when_a_buffer_is_free(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    one, other = ends
    buffer = bytearray(b"x" * 5000)
    one.setsockopt(c.SOL_SOCKET, c.SO_ZEROCOPY, 1)
    assert one.getsockopt(c.SOL_SOCKET, c.SO_ZEROCOPY) == 1
    one.sendmsg(buffer, other.getsockname(), flags=c.MSG_ZEROCOPY, control=[ZerocopyCookie(77)])
    one.drain(timeout_s=30)
    buffer[:] = bytes(5000)
    assert one.poll() & c.Poll.IN
    assert one.recvmsg(flags=c.MSG_DONTWAIT).control == (ZerocopyCompletion((77,)),)
    assert other.recv() == b"x" * 5000
    with pytest.raises(SocketError) as problem:
        one.setsockopt(c.SOL_SOCKET, c.SO_ZEROCOPY, 2)
    assert problem.value.errno == errno.EINVAL


@pytest.mark.parametrize("level", [c.SOL_SOCKET, c.SOL_RDS])
def test_with_timestamps_each_message_tells_when_it_came(
    ends: tuple[rdstool.Socket, rdstool.Socket], level: int
) -> None:
    one, other = ends
    other.setsockopt(level, c.SO_TIMESTAMP, 1)
    assert other.getsockopt(c.SOL_SOCKET, c.SO_TIMESTAMP) == 1
    before = time.time()
    one.sendto(b"x", other.getsockname())
    one.drain(timeout_s=30)
    after = time.time()
    (told,) = other.recvmsg().control
    assert isinstance(told, Timestamp)
    assert before - CLOCK_STEP_S < told.time < after + CLOCK_STEP_S


def test_options_that_are_set_before_bind_stay_with_the_socket() -> None:
    (address,) = own_addresses(1)
    with Stack() as stack, rdstool.Socket(stack) as sock:
        sock.setsockopt(276, 8, 2)
        sock.setsockopt(1, 7, 4242)
        sock.bind((address, 0))
        assert sock.getsockopt(1, 7) == 8484
        with pytest.raises(SocketError) as problem:
            sock.setsockopt(276, 8, 2)
        assert problem.value.errno == errno.EOPNOTSUPP


def test_sockets_of_one_address_share_a_node_and_the_last_one_gives_it_up() -> None:
    (address,) = own_addresses(1)
    with Stack() as stack, Stack() as rival:
        first, second, third = rdstool.Socket(stack), rdstool.Socket(stack), rdstool.Socket(rival)
        first.bind((address, 4000))
        second.bind((address, 4001))
        first.sendto(b"neighbour", (address, 4001))
        assert second.recv() == b"neighbour"
        first.close()
        with pytest.raises(AddressError, match="speaks RDS already") as problem:
            third.bind((address, 4000))
        assert problem.value.errno == errno.EADDRINUSE
        second.close()
        third.bind((address, 4000))
        third.close()


def test_a_program_that_has_closed_its_sockets_leaves_nothing_open() -> None:
    program = f"import rdstool\nwith rdstool.Socket() as sock: sock.bind(({own_addresses(1)[0]!r}, 4000))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(("chosen", "number"), [(False, errno.EADDRNOTAVAIL), (True, errno.ENOPROTOOPT)])
def test_an_address_of_another_machine_gives_the_kernels_errno(chosen: bool, number: int) -> None:
    with Stack() as stack, rdstool.Socket(stack) as sock:
        if chosen:
            sock.setsockopt(c.SOL_RDS, c.SO_RDS_TRANSPORT, c.RDS_TRANS_TCP)
        with pytest.raises(OSError, match="is not an address of this machine") as problem:
            sock.bind(("192.0.2.1", 4000))
        assert problem.value.errno == number


def test_a_socket_shows_its_name(ends: tuple[rdstool.Socket, rdstool.Socket]) -> None:
    address, port = ends[0].getsockname()
    assert repr(ends[0]) == f"<Socket {address}:{port}>"
    with rdstool.Socket() as unbound:
        assert repr(unbound) == "<Socket unbound>"


def test_an_unbound_socket_can_neither_send_nor_wait() -> None:
    with Stack() as stack, rdstool.Socket(stack) as sock:
        for call in (lambda: sock.sendto(b"", ("127.0.0.1", 4000)), sock.recv):
            with pytest.raises(SocketError) as problem:
                call()
            assert problem.value.errno == errno.ENOTCONN
