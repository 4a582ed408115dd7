"""``python -m rdstool.afrds say ADDRESS PORT TEXT``: the kernel sends a datagram; waits for its acknowledgement."""

from __future__ import annotations

import socket
import sys
import time

from rdstool.afrds import info
from rdstool.afrds.sockets import family_of, open_socket

TIMEOUT_S = 60.0
"""For the acknowledgement. The kernel itself would try for ever."""

_LOOK_EVERY_S = 0.05
_ANY_PORT = 9
"""Of a UDP socket that sends nothing: its route tells the own address."""


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


def say(peer: str, port: int, text: str) -> int:
    """Send one datagram; 0, or 1 where nobody acknowledged it in time."""
    with open_socket(family_of(peer)) as sock:
        sock.bind((own_address(peer), 0))
        here, own_port = sock.getsockname()[:2]
        # Blocking, the kernel would wait for the peer's handshake without end.
        sock.sendmsg([text.encode()], [], socket.MSG_DONTWAIT, (peer, port))
        deadline = time.monotonic() + TIMEOUT_S
        while waiting(sock, own_port, ipv6=family_of(peer) == socket.AF_INET6):
            if time.monotonic() > deadline:
                sys.stderr.write(f"{peer}:{port}: no acknowledgement within {TIMEOUT_S:g} s\n")
                return 1
            time.sleep(_LOOK_EVERY_S)
    sys.stdout.write(f"{here}:{own_port} > {peer}:{port}: {len(text.encode())} bytes, acknowledged\n")
    return 0


def main(arguments: list[str]) -> int:
    """Do what the arguments say."""
    if len(arguments) != 4 or arguments[0] != "say":
        sys.stderr.write("usage: python -m rdstool.afrds say ADDRESS PORT TEXT\n")
        return 2
    try:
        return say(arguments[1], int(arguments[2]), arguments[3])
    except OSError as problem:
        sys.stderr.write(f"{arguments[1]}:{arguments[2]}: {problem.strerror}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
