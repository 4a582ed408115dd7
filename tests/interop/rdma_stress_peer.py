"""``stress_peer.py`` with RDMA, for guests: requests offer memory (RDMA_MAP), acks follow RDMA (RDMA_ARGS).

Written from docs/protocol.md §8 and §12. All memory is compared; at the end a line tells how many operations of either
kind the peer has done to ours, and we to the peer's.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import struct
import sys

from tests.interop import stress_peer
from tests.interop.stress_peer import ACK, HEADER_BYTES, OPTION_BYTES, REQUEST, Options, Talk

SOL_RDS = 276
ARGS, DEST, MAP, STATUS = 1, 2, 3, 4
READWRITE, FENCE, USE_ONCE, NOTIFY = 0x01, 0x02, 0x08, 0x20
READ, WRITE = 1, 2
HEADER = struct.Struct(">I4s4sHHHBBQQQQIIBBB")
RDMA = struct.Struct(">BQQQQII")
RDMA_AT = 19
LAST_WITHOUT_RDMA = 10
LIMIT = 1 << 20
SIZE_AT = 12
"""Of the RDMA size in the option block."""


def numbers(number: int, size: int) -> bytes:
    """The pattern of RDMA."""
    return (number.to_bytes(8, sys.byteorder) * (size // 8 + 1))[:size]


class RdmaTask(stress_peer.Task):
    """One task."""

    rdma_bytes = 0

    def __init__(self, number: int, own: str, peer: str, options: Options, *, asks: bool) -> None:
        super().__init__(number, own, peer, options, asks=asks)
        slots = [(there, slot) for there in range(options.tasks) for slot in range(options.depth)]
        self.memory = {slot: ctypes.create_string_buffer(self.rdma_bytes) for slot in slots}
        self.local = {slot: ctypes.create_string_buffer(self.rdma_bytes) for slot in slots}
        self.open: dict[tuple[int, int], tuple[int, int]] = {}
        """Operation and number that a request of ours asks for."""
        self.asked: dict[tuple[int, int], tuple[int, int, int, bytes]] = {}
        """Operation, number and cookie that a request of the peer asks for, and what its ack repeats."""
        self.busy: dict[int, tuple[tuple[int, int], int, int]] = {}
        """RDMA of ours that is under way, by token."""
        self.done = {READ: 0, WRITE: 0}
        self.suffered = {READ: 0, WRITE: 0}

    def send(self, talk: Talk, slot: int, op: int, size: int) -> bool:
        """One message, with what RDMA belongs to it; False where there is no room."""
        key = talk.number, slot
        rest, control = bytes(RDMA.size), []
        if op == REQUEST and talk.sent > LAST_WITHOUT_RDMA:
            operation = READ if (talk.sent + talk.number) % 2 else WRITE
            number = talk.sent << 32 | os.getpid()
            first = numbers(number, self.rdma_bytes) if operation == READ else bytes(self.rdma_bytes)
            ctypes.memmove(self.memory[key], first, self.rdma_bytes)
            cookie = ctypes.c_uint64()
            where = ctypes.addressof(self.memory[key]), self.rdma_bytes, ctypes.addressof(cookie)
            control = [(SOL_RDS, MAP, struct.pack("=QQQQ", *where, READWRITE | USE_ONCE))]
            rest = RDMA.pack(operation, where[0], 0, number, 0, self.rdma_bytes, 1)
        elif op == ACK and key in self.asked:
            if any(busy == key for busy, _, _ in self.busy.values()):
                return False
            operation, number, cookie_of_peer, rest = self.asked[key]
            if operation == WRITE:
                ctypes.memmove(self.local[key], numbers(number, self.rdma_bytes), self.rdma_bytes)
            vector = struct.pack("=QQ", ctypes.addressof(self.local[key]), self.rdma_bytes)
            pieces = ctypes.create_string_buffer(vector, len(vector))
            flags = NOTIFY | (READWRITE if operation == WRITE else FENCE)
            args = cookie_of_peer, 0, self.rdma_bytes, ctypes.addressof(pieces), 1, flags, talk.number << 16 | slot
            control = [(SOL_RDS, ARGS, struct.pack("=QQQQQQQ", *args))]
        there = self.options.port + 1 + talk.number
        own, peer = socket.inet_aton(self.own), socket.inet_aton(self.peer)
        head = HEADER.pack(talk.sent, own, peer, self.port, there, slot, op, *[0] * 10)
        message = head[:RDMA_AT] + rest + bytes(HEADER_BYTES - RDMA_AT - len(rest))
        try:
            self.sock.sendmsg([message + stress_peer.pattern(size - HEADER_BYTES)], control, 0, (self.peer, there))
        except BlockingIOError:
            return False
        except OSError as problem:
            if problem.errno == 105:  # ENOBUFS: congested
                return False
            raise
        talk.sent += 1
        if control and op == REQUEST:
            self.open[key] = operation, number
        elif control:
            del self.asked[key]
            self.busy[talk.number << 16 | slot] = key, operation, number
        return True

    def receive_all(self) -> None:
        """Check everything that has come."""
        while not self.problem:
            try:
                data, control, _, source = self.sock.recvmsg(LIMIT, 1024)
            except BlockingIOError:
                return
            told = {kind: value for level, kind, value in control if level == SOL_RDS}
            if STATUS in told:
                self.ended(*struct.unpack_from("=Qi", told[STATUS]))
            if data:
                self.take(data, source, told)

    def ended(self, token: int, status: int) -> None:
        """RDMA of ours has ended."""
        key, operation, number = self.busy.pop(token)
        if status:
            self.problem = f"RDMA ended with status {status}"
        elif operation == READ and self.local[key].raw != numbers(number, self.rdma_bytes):
            self.problem = "what was read is damaged"
        self.done[operation] += 1

    def take(self, data: bytes, source: tuple[str, int], told: dict[int, bytes]) -> None:
        """One message."""
        talk = self.talks[source[1] - self.options.port - 1]
        operation, *_, number, key, _, _ = fields = RDMA.unpack_from(data, RDMA_AT)
        if data[18] == REQUEST:
            slot = talk.number, talk.peers_slot
            if operation:
                cookie = int.from_bytes(told[DEST], sys.byteorder) if DEST in told else key
                rest = RDMA.pack(*fields[:4], cookie, *fields[5:])
                self.asked[slot] = operation, number, cookie, rest
        else:
            slot = talk.number, (talk.next_slot - talk.open) % self.options.depth
            if slot in self.open:
                wanted, number = self.open.pop(slot)
                self.suffered[wanted] += 1
                if wanted == WRITE and self.memory[slot].raw != numbers(number, self.rdma_bytes):
                    self.problem = "what was written is damaged"
        if not self.problem:
            self.check(data, *source)


def negotiate(given: argparse.Namespace, size: int) -> tuple[socket.socket, Options, str]:
    """Both roles' part, with the size of RDMA."""
    if not given.s:
        with socket.create_server((given.r, given.p)) as doorway:
            control = doorway.accept()[0]
        block = stress_peer.exactly(control, OPTION_BYTES)
        RdmaTask.rdma_bytes = struct.unpack_from(">I", block, SIZE_AT)[0]
        depth, request, ack, _, _, receive, port, tasks, run_time = stress_peer.OPTIONS.unpack_from(block)
        options = Options(depth, request, ack, port, tasks, run_time, block[35], block[45])
        return control, options, socket.inet_ntoa(receive)
    RdmaTask.rdma_bytes = size
    options = Options(given.d, given.q, given.a, given.p, given.t, given.T, given.v, given.o)
    control = stress_peer.connect(given.r, given.s, options.port)
    block = stress_peer.OPTIONS.pack(
        *(options.depth, options.request_bytes, options.ack_bytes, size),
        *(socket.inet_aton(given.s), socket.inet_aton(given.r)),
        *(options.port, options.tasks, options.run_time),
    )
    flags = bytes((0, 0, 0, options.verify, 0, 0, 1, 1, 0, 1, 0, 0, 0xFF, options.simplex, 0))
    control.sendall(block + flags + struct.pack(">III", 1, 0, 0))
    return control, options, given.s


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-D", type=int, default=0)
    own, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    given = stress_peer.arguments()
    active = bool(given.s)
    control, options, peer = negotiate(given, own.D)
    asks = active or not options.simplex
    tasks = [RdmaTask(number, given.r, peer, options, asks=asks) for number in range(options.tasks)]
    if active:
        control.sendall(b"\0")
    stress_peer.exactly(control, 1)
    if not active:
        control.sendall(b"\0")
    stress_peer.run(list(tasks), control, options.run_time if active else None)
    control.close()
    wrong = [task.problem for task in tasks if task.problem]
    if wrong:
        sys.exit(wrong[0])
    print(*(sum(each[kind] for task in tasks for each in (counts(task),)) for kind in range(4)))  # noqa: T201


def counts(task: RdmaTask) -> tuple[int, int, int, int]:
    """Reads and writes that were done, and those that were suffered."""
    return task.done[READ], task.done[WRITE], task.suffered[READ], task.suffered[WRITE]


if __name__ == "__main__":
    main()
