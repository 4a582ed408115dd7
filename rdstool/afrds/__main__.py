"""``python -m rdstool.afrds say ADDRESS PORT TEXT [COOKIE]``: the kernel sends a datagram.

Its acknowledgement is waited for. With the cookie of memory that the peer offers, the kernel first writes the text into
that by RDMA.
"""

from __future__ import annotations

import socket
import sys
import time

from rdstool.afrds import info
from rdstool.afrds.rdma import RdmaWrite
from rdstool.afrds.sockets import family_of, open_socket
from rdstool.protocol.errors import RdmaError
from rdstool.protocol.reasons import SendStatus

TIMEOUT_S = 60.0
"""For the acknowledgement. The kernel itself would try for ever."""

_LOOK_EVERY_S = 0.05
_CONTROL_BYTES = 1024
"""Room for control messages that come with a notification."""
_ANY_PORT = 9
"""Port for a UDP socket that sends nothing, and whose route tells the own address."""


def own_address(peer: str) -> str:
    """The address of this machine that packets to ``peer`` come from. Raises ``OSError`` where there is no route."""
    with socket.socket(family_of(peer), socket.SOCK_DGRAM) as probe:
        probe.connect((peer, _ANY_PORT))
        address: str = probe.getsockname()[0]
        return address


def waiting(sock: socket.socket, port: int, *, ipv6: bool) -> bool:
    """Whether anything from this port is queued, or sent and not acknowledged."""
    tables = (info.table(sock, name, ipv6=ipv6) for name in ("send_messages", "retransmit_messages"))
    return any(record["local_port"] == port for table in tables for record in table)


def say(peer: str, port: int, data: bytes, write: RdmaWrite | None) -> str:
    """Send one datagram, after ``write``; returns who sent what to whom, in words.

    Raises ``TimeoutError`` where nobody acknowledged it in time, ``RdmaError`` where the write did not succeed.
    """
    deadline = time.monotonic() + TIMEOUT_S
    with open_socket(family_of(peer)) as sock:
        sock.bind((own_address(peer), 0))
        here, own_port = sock.getsockname()[:2]
        # Blocking, the kernel would wait for the peer's handshake without end.
        sock.sendmsg([data], [write.control()] if write else [], socket.MSG_DONTWAIT, (peer, port))
        while waiting(sock, own_port, ipv6=family_of(peer) == socket.AF_INET6):
            if time.monotonic() > deadline:
                raise TimeoutError(None, f"no acknowledgement within {TIMEOUT_S:g} s")
            time.sleep(_LOOK_EVERY_S)
        if write is not None:
            await_write(sock, write, deadline)
    written = ", written by RDMA before" if write else ""
    return f"{here}:{own_port} > {peer}:{port}: {len(data)} bytes, acknowledged{written}"


def await_write(sock: socket.socket, write: RdmaWrite, deadline: float) -> None:
    """Wait until the kernel tells how a write ended. Raises ``RdmaError`` where it failed, and ``TimeoutError``."""
    status = None
    while status is None:
        sock.settimeout(max(deadline - time.monotonic(), _LOOK_EVERY_S))
        status = write.status(sock.recvmsg(0, _CONTROL_BYTES)[1])
    if status:
        raise RdmaError(SendStatus(status))


def main(arguments: list[str]) -> int:
    """Do what the arguments say. Returns 0, 1 where the peer did not take it, 2 where it could not be sent."""
    if len(arguments) not in {4, 5} or arguments[0] != "say":
        sys.stderr.write("usage: python -m rdstool.afrds say ADDRESS PORT TEXT [COOKIE]\n")
        return 2
    peer, port, data = arguments[1], int(arguments[2]), arguments[3].encode()
    write = RdmaWrite(int(arguments[4], 0), data) if len(arguments) > 4 else None
    try:
        sys.stdout.write(say(peer, port, data, write) + "\n")
    except (RdmaError, OSError) as problem:
        told = problem if isinstance(problem, RdmaError) else problem.strerror or problem
        sys.stderr.write(f"{peer}:{port}: {told}\n")
        return 1 if isinstance(problem, RdmaError | TimeoutError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
