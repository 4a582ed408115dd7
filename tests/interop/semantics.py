"""What calls on RDS sockets answer: one program, for a kernel's sockets and for rdstool's.

    python -m tests.interop.semantics kernel|rdstool ADDRESS ADDRESS6

prints a JSON object: each case by its name, with what the call gave, or the name of its errno. Messages go from the
address to itself, and to an address that nobody has. Own addresses are told as OWN and OWN6.
"""

from __future__ import annotations

import errno
import fcntl
import json
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import rdstool
from rdstool.afrds.sockets import open_socket, pack_address
from rdstool.endpoint import constants as c

_SETTOS, _GETTOS = 0x89E0, 0x89E1
NOBODY = "192.0.2.250"
"""An address of the network that nobody has: a connection to it never comes up."""
OUTSIDE = "198.51.100.1"
"""An address of no network."""
MIB = 1 << 20


class KernelSocket:
    """A socket of the kernel, not blocking, with those calls of ``rdstool.Socket`` that cases use."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.sock = open_socket(socket.AddressFamily(family))
        self.sock.setblocking(False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def sendmsg(self, data: bytes, address: Any = None, *, flags: int = 0) -> int:
        return self.sock.sendmsg([data], [], flags, *([] if address is None else [address]))

    def recvmsg(self, size: int, *, flags: int = 0) -> Any:
        data, _, came, address = self.sock.recvmsg(size, 256, flags)
        # With MSG_TRUNC Python gives no more bytes than it asked for, though the call tells of more.
        return data.decode(), came & c.MSG_TRUNC, address and address[:2]

    def getsockname(self) -> Any:
        return self.sock.getsockname()[:2]

    def getpeername(self) -> Any:
        return self.sock.getpeername()[:2]

    def set_tos(self, tos: int) -> None:
        fcntl.ioctl(self.sock, _SETTOS, bytes([tos]))

    def get_tos(self) -> int:
        return fcntl.ioctl(self.sock, _GETTOS, b"\0")[0]

    def poll(self) -> int:
        poller = select.poll()
        poller.register(self.sock, select.POLLIN | select.POLLOUT)
        return dict(poller.poll(0)).get(self.sock.fileno(), 0)


class OurSocket(rdstool.Socket):
    """rdstool's, likewise."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        del family
        super().__init__()
        self.setblocking(False)

    def recvmsg(self, size: int, *, flags: int = 0) -> Any:  # type: ignore[override]
        message = super().recvmsg(size, flags=flags)
        source = (message.address, message.port) if message.address else None
        return message.data.decode(), message.flags, source

    def poll(self) -> int:  # type: ignore[override]
        return int(super().poll()) & (select.POLLIN | select.POLLOUT)


Make = Callable[..., Any]
Case = tuple[str, Callable[[], object]]


def bound(make: Make, address: str, port: int = 0) -> Any:
    sock = make(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.bind((address, port))
    return sock


def names(make: Make, own: str, own6: str) -> Iterator[Case]:
    """bind, connect and the names of sockets."""
    for address in ("0.0.0.0", "224.0.0.1", "255.255.255.255", OUTSIDE):  # noqa: S104
        yield f"bind {address}", partial(make().bind, (address, 4000))
    for address in ("::", "ff02::1", "2001:db8:1::1", "fe80::1"):
        yield f"bind {address}", partial(make(socket.AF_INET6).bind, (address, 4000))
    yield "bind port 1", lambda: make().bind((own, 1))
    first = bound(make, own, 4000)
    yield "bind twice", lambda: first.bind((own, 4001))
    yield "bind a taken port", lambda: make().bind((own, 4000))
    for address in ("0.0.0.0", "224.0.0.1", "255.255.255.255", OUTSIDE, own):  # noqa: S104
        yield f"connect {address}", partial(make().connect, (address, 4000))
    for address in ("::", "ff02::1", "2001:db8:1::1", "fe80::1"):
        yield f"connect {address}", partial(make(socket.AF_INET6).connect, (address, 4000))
    yield "connect port 0", lambda: make().connect((own, 0))
    yield "connect again", lambda: [first.connect((own, 4000)), first.connect((OUTSIDE, 1)), first.getpeername()][-1]
    yield "getsockname", first.getsockname
    yield "getpeername unconnected", lambda: bound(make, own).getpeername()
    six = bound(make, own6, 4000)
    yield "getsockname of IPv6", six.getsockname
    yield "connect before bind", lambda: _connect_then_bind(make, own)


def _connect_then_bind(make: Make, own: str) -> object:
    sock = make()
    sock.connect((own, 4000))
    sock.bind((own, 0))
    return sock.getpeername()


def sending(make: Make, own: str, own6: str) -> Iterator[Case]:
    """sendmsg: what it refuses, and in which order."""
    unbound, one = make(), bound(make, own, 6000)
    there = bound(make, own)
    end = there.getsockname()
    connected = make()
    connected.connect(end)
    yield "send unbound", lambda: unbound.sendmsg(b"x", end)
    yield "send unbound without destination", lambda: unbound.sendmsg(b"x")
    yield "send connected and unbound", lambda: connected.sendmsg(b"x")
    yield "send without destination", lambda: one.sendmsg(b"x")
    for flag in ("OOB", "DONTROUTE", "EOR", "MORE", "PEEK", "NOSIGNAL", "CONFIRM", "TRUNC"):
        yield f"send with MSG_{flag}", partial(one.sendmsg, b"x", end, flags=getattr(socket, f"MSG_{flag}"))
    for address in ("0.0.0.0", "224.0.0.1", "255.255.255.255"):  # noqa: S104
        yield f"send to {address}", partial(one.sendmsg, b"x", (address, 4000))
    six = bound(make, own6)
    for address in ("::", "ff02::1", "fe80::1"):
        yield f"send to {address}", partial(six.sendmsg, b"x", (address, 4000))
    yield "send too much to nowhere", lambda: unbound.sendmsg(bytes(2 * MIB), end)
    yield "send with a flag and too much", lambda: one.sendmsg(bytes(2 * MIB), end, flags=socket.MSG_OOB)
    yield "send more than RDS has room for", lambda: _large(make, own, MIB + 1)
    yield "send all that RDS has room for", lambda: _large(make, own, MIB)
    yield "send more than the send buffer", lambda: _buffered(make, own, [4097])
    yield "fill the send buffer", lambda: _buffered(make, own, [4096, 1])
    yield "go beyond the send buffer", lambda: _buffered(make, own, [4095, 4096, 0])
    yield "send nothing beyond the send buffer", lambda: _buffered(make, own, [4096, 0])
    yield "send nothing", lambda: [one.sendmsg(b"", end), there.recvmsg(10)]


def _large(make: Make, own: str, size: int) -> object:
    sock, there = bound(make, own), bound(make, own)
    sock.setsockopt(c.SOL_SOCKET, c.SO_SNDBUF, 2 * MIB)
    return sock.sendmsg(bytes(size), there.getsockname())


def _buffered(make: Make, own: str, sizes: list[int]) -> object:
    """To nobody, so that all stays in the buffer."""
    sock = bound(make, own)
    sock.setsockopt(c.SOL_SOCKET, c.SO_SNDBUF, 4096)
    done = [outcome(partial(sock.sendmsg, bytes(size), (NOBODY, 4000))) for size in sizes]
    ready = sock.poll() & select.POLLOUT
    sock.setsockopt(c.SOL_RDS, c.RDS_CANCEL_SENT_TO, pack_address(NOBODY, 4000))
    return [*done, ready, sock.poll() & select.POLLOUT]


def receiving(make: Make, own: str, own6: str) -> Iterator[Case]:
    """recvmsg and poll."""
    del own6
    one, there = bound(make, own, 5000), bound(make, own, 5001)
    end = there.getsockname()
    yield "receive unbound", lambda: make().recvmsg(10)
    yield "receive nothing", lambda: there.recvmsg(10)
    # The kernel tells a new socket of congestion maps that came before it, once.
    yield "poll with nothing to read", lambda: [there.poll(), there.poll()][-1]
    yield "peek", lambda: [one.sendmsg(b"hello", end), there.poll(), there.recvmsg(10, flags=c.MSG_PEEK)]
    yield "peek at the beginning", lambda: there.recvmsg(2, flags=c.MSG_PEEK)
    yield "receive what was peeked at", lambda: there.recvmsg(10)
    yield (
        "receive too little",
        lambda: [one.sendmsg(b"hello", end), there.recvmsg(2), outcome(lambda: there.recvmsg(9))],
    )
    yield "receive with room for nothing", lambda: [one.sendmsg(b"hello", end), there.recvmsg(0)]
    yield "receive out of band", lambda: there.recvmsg(10, flags=socket.MSG_OOB)
    yield "send to a port that nobody has", lambda: one.sendmsg(b"x", (own, 5999))


def options(make: Make, own: str, own6: str) -> Iterator[Case]:
    """setsockopt, getsockopt and ioctl."""
    del own6
    rds, generic = c.SOL_RDS, c.SOL_SOCKET
    sock = bound(make, own)
    yield "transport of an unbound socket", lambda: make().getsockopt(rds, c.SO_RDS_TRANSPORT)
    yield "transport of a bound socket", lambda: sock.getsockopt(rds, c.SO_RDS_TRANSPORT)
    for number in (c.RDS_TRANS_NONE, 3, 17):
        yield f"set transport {number}", partial(make().setsockopt, rds, c.SO_RDS_TRANSPORT, number)
    yield "set the transport of a bound socket", lambda: sock.setsockopt(rds, c.SO_RDS_TRANSPORT, c.RDS_TRANS_TCP)
    chosen = make()
    yield "choose TCP", lambda: chosen.setsockopt(rds, c.SO_RDS_TRANSPORT, c.RDS_TRANS_TCP)
    yield "choose again", lambda: chosen.setsockopt(rds, c.SO_RDS_TRANSPORT, c.RDS_TRANS_TCP)
    yield "read the choice", lambda: chosen.getsockopt(rds, c.SO_RDS_TRANSPORT)
    yield "bind with a choice to the address of nobody", lambda: chosen.bind((OUTSIDE, 0))
    yield "bind with a choice", lambda: chosen.bind((own, 0))
    for name in ("RDS_RECVERR", "RDS_CONG_MONITOR"):
        option = getattr(c, name)
        for value in (0, 1, 7, -1, b"\1", b"", bytes([1, *bytes(7)])):
            yield f"{name} {value!r}", partial(sock.setsockopt, rds, option, value)
        yield f"read {name}", partial(sock.getsockopt, rds, option)
    for place, packed in enumerate(
        (
            pack_address(own, 4000),
            pack_address(own, 4000)[:8],
            b"",
            pack_address("0.0.0.0", 4000),  # noqa: S104
            pack_address("224.0.0.1", 4000),
            pack_address(OUTSIDE, 0),
            struct.pack("=H", 99) + pack_address(own, 4000)[2:],
            pack_address("::", 4000),
            pack_address("fe80::1", 4000),
            pack_address("2001:db8:1::1", 4000),
        )
    ):
        yield f"cancel {place}", partial(sock.setsockopt, rds, c.RDS_CANCEL_SENT_TO, packed)
    yield "cancel unbound", lambda: make().setsockopt(rds, c.RDS_CANCEL_SENT_TO, pack_address(own, 4000))
    for points in (
        b"",
        b"\0\0\0",
        b"\0\0\0\0",
        b"\3\0\1\2",
        b"\4\0\1\2\0",
        b"\1\3\0\0",
        b"\1\2\0\0",
        b"\1\2",
        b"\2\1\1\0",
    ):
        yield f"trace {points.hex()}", partial(make().setsockopt, rds, c.SO_RDS_MSG_RXPATH_LATENCY, points)
    for option in (0, 4, 9, 11, 99):
        yield f"set option {option}", partial(make().setsockopt, rds, option, 1)
        yield f"read option {option}", partial(make().getsockopt, rds, option)
    yield "set an option of another level", lambda: sock.setsockopt(250, 1, 1)
    yield "read an option of another level", lambda: sock.getsockopt(250, 1)
    for name in ("SO_SNDBUF", "SO_RCVBUF"):
        option = getattr(c, name)
        yield f"read {name}", partial(make().getsockopt, generic, option)
        for size in (8192, 1, 0):
            yield f"{name} {size}", partial(_set_and_read, sock, option, size)
    yield "read SO_TYPE", lambda: sock.getsockopt(generic, socket.SO_TYPE)
    yield "read SO_DOMAIN", lambda: sock.getsockopt(generic, socket.SO_DOMAIN)
    yield "read SO_PROTOCOL", lambda: sock.getsockopt(generic, socket.SO_PROTOCOL)
    yield "read SO_ERROR", lambda: sock.getsockopt(generic, socket.SO_ERROR)
    yield "read SO_ACCEPTCONN", lambda: sock.getsockopt(generic, socket.SO_ACCEPTCONN)
    yield "SO_TIMESTAMP", lambda: sock.setsockopt(generic, c.SO_TIMESTAMP, 1)
    yield "SO_ZEROCOPY 2", lambda: sock.setsockopt(generic, c.SO_ZEROCOPY, 2)
    yield "set TOS unbound", lambda: make().set_tos(5)
    yield "set TOS", lambda: [sock.set_tos(5), sock.get_tos()]
    yield "read TOS unbound", lambda: make().get_tos()


def _set_and_read(sock: Any, option: int, value: int) -> object:
    sock.setsockopt(c.SOL_SOCKET, option, value)
    return sock.getsockopt(c.SOL_SOCKET, option)


def outcome(call: Callable[[], object]) -> object:
    """What a call gives, or the name of its errno."""
    try:
        return call()
    except OSError as problem:
        return errno.errorcode.get(problem.errno or 0, str(problem))


def answers(make: Make, own: str, own6: str) -> dict[str, object]:
    """All cases, in order: later ones depend on earlier ones of the same group."""
    return {
        name: outcome(call) for group in (names, sending, receiving, options) for name, call in group(make, own, own6)
    }


if __name__ == "__main__":
    kind, own, own6 = sys.argv[1:]
    told = json.dumps(answers(KernelSocket if kind == "kernel" else OurSocket, own, own6))
    sys.stdout.write(told.replace(own6, "OWN6").replace(own, "OWN") + "\n")
