"""What benchmarks/host_guest.py runs on both sides.

    KIND ROLE OWN PEER RUNS SECONDS SIZE:COUNT...

``KIND`` is ``roce``, which is rdstool, or ``kernel``; ``ROLE`` is ``sender`` or ``receiver``. The two meet by RDS, then
of each size and in each run let a bare UDP program go for some seconds, and send so many messages by RDS. The sender
prints a JSON line for each run: the rates of both, a second, and what part of the time each side's processors were
idle while messages went. The side with the smaller address says hello first, so it makes the connection.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path
from time import perf_counter

from benchmarks.guest_programs import HELLO, LIMIT_S, PORT, RdsSocket, opened
from dissectors.wire.rds import FRAGMENT_BYTES, HEADER_BYTES
from rdstool.protocol.addresses import rank

MTU = 1024
"""Path MTU over the guest's network device, which has 1,500 bytes."""
TRANSPORT_BYTES = 16
"""BTH and ICRC."""
BARE_PORT = 4790
AHEAD, TELL_EVERY = 128, 32
"""Datagrams on their way at most, and after how many the receiver tells of them: a flooded guest does nothing else."""
LOST_AFTER_S = 0.2
BUFFER = 4 << 20
MARK_BYTES = 8
"""What ends a flood of datagrams: its number. Those of the flood are longer."""
WORDS_BYTES = 1000
"""Room for what the two programs tell each other."""


def packets(size: int) -> list[int]:
    """Payloads of the UDP datagrams that carry one message."""
    frames = [HEADER_BYTES + min(FRAGMENT_BYTES, size - at) for at in range(0, size, FRAGMENT_BYTES)]
    return [TRANSPORT_BYTES + min(MTU, frame - at) for frame in frames for at in range(0, frame, MTU)]


class Idle:
    """What part of the time this machine's processors are idle."""

    def __init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> list[int]:
        return [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]

    def part(self) -> float:
        """From 0 to 1, since it was made."""
        spent = [now - before for before, now in zip(self._before, self._read(), strict=True)]
        return (spent[3] + spent[4]) / max(1, sum(spent))


class Side:
    """One of the two programs: its sockets, RDS and bare."""

    def __init__(self, rds: RdsSocket, bare: socket.socket, peer: str) -> None:
        self._rds, self._bare = rds, bare
        self._to, self._bare_to = (peer, PORT), (peer, BARE_PORT)
        self._floods = 0

    def say(self, **words: object) -> None:
        """Tell the other program something, by RDS."""
        self._rds.sendto(json.dumps(words).encode(), self._to)

    def hear(self) -> dict[str, float]:
        """What the other program tells."""
        words: dict[str, float] = json.loads(self._rds.recvfrom(WORDS_BYTES)[0])
        return words

    def _mark(self) -> bytes:
        self._floods += 1
        return self._floods.to_bytes(MARK_BYTES, "big")

    # ---- UDP

    def flood(self, seconds: float, sizes: Sequence[int]) -> float:
        """Datagrams of these sizes in turn until the time is over; tells how many a second came."""
        bare, to, mark = self._bare, self._bare_to, self._mark()
        self._drain()
        bare.settimeout(LOST_AFTER_S)
        turns = cycle([bytes(size) for size in sizes])
        ahead = 0
        end = perf_counter() + seconds
        while perf_counter() < end:
            while ahead < AHEAD:
                bare.sendto(next(turns), to)
                ahead += 1
            try:
                bare.recv(MARK_BYTES)
                ahead -= TELL_EVERY
            except TimeoutError:
                ahead = 0
        self._rds.settimeout(LOST_AFTER_S)
        while True:
            bare.sendto(mark, to)
            try:
                rate = self.hear()["rate"]
            except TimeoutError:
                continue
            self._rds.settimeout(LIMIT_S)
            return rate

    def bear(self) -> None:
        """Receive such datagrams, and tell how many come in a second."""
        bare, to, mark = self._bare, self._bare_to, self._mark()
        bare.settimeout(LIMIT_S)
        began, count = 0.0, 0
        while (data := bare.recv(MTU + TRANSPORT_BYTES)) != mark:
            if len(data) == MARK_BYTES:
                continue  # of an earlier flood, sent more than once
            began = began or perf_counter()
            count += 1
            if not count % TELL_EVERY:
                bare.sendto(b"+", to)
        self.say(rate=count / (perf_counter() - began))

    def _drain(self) -> None:
        """Forget what the receiver told of an earlier flood."""
        self._bare.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._bare.recv(MARK_BYTES)

    # ---- RDS

    def send(self, size: int, count: int) -> float:
        """Send messages; tells how many a second until the last one was received."""
        rds, to, payload = self._rds, self._to, bytes(size)
        began = perf_counter()
        for _ in range(count):
            rds.sendto(payload, to)
        self.hear()
        return count / (perf_counter() - began)

    def receive(self, size: int, count: int) -> None:
        """Receive them."""
        for _ in range(count):
            assert len(self._rds.recvfrom(size)[0]) == size
        self.say()


def run_sender(side: Side, runs: int, seconds: float, counts: dict[int, int]) -> None:
    """All sizes, all runs; a line for each."""
    for size, count in counts.items():
        for _ in range(runs):
            side.hear()
            bare = side.flood(seconds, packets(size))
            idle = Idle()
            rate = side.send(size, count)
            mine = idle.part()
            side.say()
            told = {"size": size, "bare": bare, "rate": rate, "sender": mine, "receiver": side.hear()["idle"]}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


def run_receiver(side: Side, runs: int, counts: dict[int, int]) -> None:
    """The other side of it."""
    for size, count in counts.items():
        for _ in range(runs):
            side.say()
            side.bear()
            idle = Idle()
            side.receive(size, count)
            part = idle.part()
            side.hear()
            side.say(idle=part)


def main() -> None:
    """Meet, and measure."""
    kind, role, own, peer, runs, seconds, *sizes = sys.argv[1:]
    counts = {int(size): int(count) for size, count in (each.split(":") for each in sizes)}
    with ExitStack() as stack:
        rds = opened(kind, own, stack)
        bare = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        bare.bind((own, BARE_PORT))
        to = peer, PORT
        if rank(own) < rank(peer):
            rds.sendto(HELLO, to)
            assert rds.recvfrom(WORDS_BYTES)[0] == HELLO
        else:
            assert rds.recvfrom(WORDS_BYTES)[0] == HELLO
            rds.sendto(HELLO, to)
        side = Side(rds, bare, peer)
        if role == "sender":
            run_sender(side, int(runs), float(seconds), counts)
        else:
            run_receiver(side, int(runs), counts)


if __name__ == "__main__":
    main()
