"""Both roles of rds-stress on AF_RDS sockets, for guests: one thread a task, sends and receives that block.

Written from docs/protocol.md §12 alone and apart from ``rdstool.stress``, so that both cannot have the same
misunderstanding. It ends with 0, or with a line that says what was wrong.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field

AF_RDS = 21
HEADER = struct.Struct(">I4s4sHHHBB40xBBB")
OPTIONS = struct.Struct(">IIII4s4sHHI")
FLAGS_AT = 32
OPTION_BYTES = 59
CONTROL_PORT = 4000
REQUEST, ACK = 1, 2
HEADER_BYTES = 63
CONNECT_S = 60.0


def pattern(size: int) -> bytes:
    """What follows the header of a verified message."""
    made, k = bytearray(), 11
    for i in range(size):
        made.append(k % 256)
        k = (41 * (k + 3) + ((i + 1) // 256)) % (1 << 32)
    return bytes(made)


@dataclass
class Options:
    """Of a run."""

    depth: int
    request_bytes: int
    ack_bytes: int
    port: int
    tasks: int
    run_time: int
    verify: int
    simplex: int


@dataclass
class Talk:
    """With one task of the peer."""

    number: int
    sent: int = 0
    received: int = 0
    next_slot: int = 0
    peers_slot: int = 0
    open: int = 0
    owed: list[int] = field(default_factory=list)


class Task(threading.Thread):
    """One task."""

    def __init__(self, number: int, own: str, peer: str, options: Options, *, asks: bool) -> None:
        super().__init__(daemon=True)
        self.options, self.own, self.peer, self.asks = options, own, peer, asks
        self.port = options.port + 1 + number
        self.sock = socket.socket(AF_RDS, socket.SOCK_SEQPACKET, 0)
        self.sock.bind((own, self.port))
        self.sock.setblocking(False)
        self.talks = [Talk(each) for each in range(options.tasks)]
        self.acked = 0
        self.problem = ""
        self.stop = threading.Event()

    def run(self) -> None:
        """Until ``stop``."""
        waiter = selectors.DefaultSelector()
        waiter.register(self.sock, selectors.EVENT_READ)
        while not self.stop.is_set() and not self.problem:
            for talk in self.talks:
                self.send_all(talk)
            # A congested or full destination shows no event: look again soon.
            waiter.select(0.02)
            self.receive_all()

    def send_all(self, talk: Talk) -> None:
        """Acks first, then requests."""
        options = self.options
        while talk.owed and self.send(talk, talk.owed[0], ACK, options.ack_bytes):
            talk.owed.pop(0)
        while self.asks and not talk.owed and talk.open < options.depth:
            if not self.send(talk, talk.next_slot, REQUEST, options.request_bytes):
                return
            talk.open += 1
            talk.next_slot = (talk.next_slot + 1) % options.depth

    def send(self, talk: Talk, slot: int, op: int, size: int) -> bool:
        """One message; False where there is no room."""
        there = self.options.port + 1 + talk.number
        own, peer = socket.inet_aton(self.own), socket.inet_aton(self.peer)
        message = HEADER.pack(talk.sent, own, peer, self.port, there, slot, op, 0, 0, 0, 0)
        try:
            self.sock.sendto(message + pattern(size - HEADER_BYTES), (self.peer, there))
        except BlockingIOError:
            return False
        except OSError as problem:
            if problem.errno == 105:  # ENOBUFS: congested
                return False
            raise
        talk.sent += 1
        return True

    def receive_all(self) -> None:
        """Check everything that has come."""
        while not self.problem:
            try:
                data, (address, port) = self.sock.recvfrom(1 << 20)
            except BlockingIOError:
                return
            self.check(data, address, port)

    def check(self, data: bytes, address: str, port: int) -> None:
        """One message."""
        options = self.options
        talk = self.talks[port - options.port - 1]
        op = data[18]
        size = options.request_bytes if op == REQUEST else options.ack_bytes
        slot = talk.peers_slot if op == REQUEST else (talk.next_slot - talk.open) % options.depth
        should = HEADER.pack(
            talk.received, socket.inet_aton(address), socket.inet_aton(self.own), port, self.port, slot, op, 0, 0, 0, 0
        )
        if len(data) != size or data[:19] != should[:19] or op not in {REQUEST, ACK}:
            self.problem = f"{address}:{port} sent {data[:19].hex()} and {len(data)} bytes, {should[:19].hex()} was due"
        elif options.verify and data[HEADER_BYTES:] != pattern(size - HEADER_BYTES):
            self.problem = f"a message from {address}:{port} is damaged"
        talk.received += 1
        if op == REQUEST:
            talk.owed.append(slot)
            talk.peers_slot = (slot + 1) % options.depth
        else:
            talk.open -= 1
            self.acked += 1


def exactly(control: socket.socket, size: int) -> bytes:
    """So many bytes of the control channel."""
    data = b""
    while len(data) < size:
        piece = control.recv(size - len(data))
        if not piece:
            sys.exit("the control connection ended early")
        data += piece
    return data


def connect(own: str, peer: str, port: int) -> socket.socket:
    """The active side's control channel."""
    until = time.monotonic() + CONNECT_S
    while True:
        try:
            return socket.create_connection((peer, port), source_address=(own, 0))
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise


def arguments() -> argparse.Namespace:
    """As those of rds-stress that the tests use."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-r", required=True)
    parser.add_argument("-s")
    for letter, default in (("p", CONTROL_PORT), ("d", 1), ("q", 1024), ("a", HEADER_BYTES), ("t", 1), ("T", 1)):
        parser.add_argument(f"-{letter}", type=int, default=default)
    parser.add_argument("-o", action="store_true")
    parser.add_argument("-v", action="store_true")
    return parser.parse_args()


def ask(given: argparse.Namespace) -> tuple[socket.socket, Options, str]:
    """The active side's part of the negotiation."""
    own, peer = given.r, given.s
    options = Options(given.d, given.q, given.a, given.p, given.t, given.T, given.v, given.o)
    control = connect(own, peer, options.port)
    block = OPTIONS.pack(
        options.depth,
        options.request_bytes,
        options.ack_bytes,
        0,
        socket.inet_aton(peer),
        socket.inet_aton(own),
        options.port,
        options.tasks,
        options.run_time,
    )
    flags = bytes((0, 0, 0, options.verify, 0, 0, 1, 0, 0, 1, 0, 0, 0xFF, options.simplex, 0))
    control.sendall(block + flags + struct.pack(">III", 1, 0, 0))
    return control, options, peer


def be_asked(given: argparse.Namespace) -> tuple[socket.socket, Options, str]:
    """The passive side's."""
    with socket.create_server((given.r, given.p)) as doorway:
        control = doorway.accept()[0]
    block = exactly(control, OPTION_BYTES)
    depth, request, ack, _, _, receive, port, tasks, run_time = OPTIONS.unpack_from(block)
    options = Options(depth, request, ack, port, tasks, run_time, block[FLAGS_AT + 3], block[FLAGS_AT + 13])
    return control, options, socket.inet_ntoa(receive)


def run(tasks: list[Task], control: socket.socket, seconds: int | None) -> None:
    """For so long, or until the peer ends it."""
    for task in tasks:
        task.start()
    until = None if seconds is None else time.monotonic() + seconds
    control.settimeout(0.05)
    while until is None or time.monotonic() < until:
        try:
            if not control.recv(1):
                break
        except TimeoutError:
            pass
    for task in tasks:
        task.stop.set()
    for task in tasks:
        task.join()


def main() -> None:
    """One run."""
    given = arguments()
    active = bool(given.s)
    control, options, peer = ask(given) if active else be_asked(given)
    asks = active or not options.simplex
    tasks = [Task(number, given.r, peer, options, asks=asks) for number in range(options.tasks)]
    if active:
        control.sendall(b"\0")
    exactly(control, 1)
    if not active:
        control.sendall(b"\0")
    run(tasks, control, options.run_time if active else None)
    control.close()
    wrong = [task.problem for task in tasks if task.problem]
    if active and any(not task.acked for task in tasks):
        wrong.append("a task got no ack")
    if wrong:
        sys.exit(wrong[0])


if __name__ == "__main__":
    main()
