"""The traffic of one side: each task talks to all tasks of the peer, and checks every message (protocol.md §12.2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from ipaddress import IPv4Address

from dissectors.wire.stress import MESSAGE_BYTES, STRESS_MESSAGE, Op, StressMessage, pattern
from rdstool.endpoint.node import AsyncSocket, Node
from rdstool.protocol.received import ReceivedMessage
from rdstool.stress.counters import Counters
from rdstool.stress.failure import StressError
from rdstool.stress.parameters import Parameters
from rdstool.stress.rdma import LAST_WITHOUT_RDMA, Controls, Rdma

_CHECKED = ("seq", "from_addr", "to_addr", "from_port", "to_port", "index", "op")
"""What a receiver can foretell of a message."""
_CHECKED_BYTES = STRESS_MESSAGE.table["rdma_op"].offset
_pack = STRESS_MESSAGE.partial(*_CHECKED).pack
_REQUEST, _ACK = int(Op.REQUEST), int(Op.ACK)
Parcel = tuple[bytes, Controls]
"""A message, and the control messages that go with it."""


class Filling:
    """What messages have behind their headers."""

    def __init__(self, parameters: Parameters) -> None:
        longest = pattern(max(parameters.request_bytes, parameters.ack_bytes) - MESSAGE_BYTES)
        self.request = longest[: parameters.request_bytes - MESSAGE_BYTES]
        self.ack = longest[: parameters.ack_bytes - MESSAGE_BYTES]


class Pair:
    """One of our tasks and one of the peer's: two sequences of messages, one each way."""

    def __init__(
        self, own: tuple[str, int], peer: tuple[str, int], parameters: Parameters, rdma: Rdma | None = None
    ) -> None:
        self.peer = peer
        self._depth = parameters.depth
        from_addr, to_addr = IPv4Address(own[0]).packed, IPv4Address(peer[0]).packed
        self._out = from_addr, to_addr, own[1], peer[1]
        self._in = to_addr, from_addr, peer[1], own[1]
        self._send_seq = 0
        self._receive_seq = 0
        self._send_index = 0
        self._receive_index = 0
        self._sent_at = [0.0] * min(self._depth, 1 << 16)
        self.outstanding = 0
        """Requests that are not acked."""
        self.owed = 0
        """Acks that are still to be sent."""
        self.news = asyncio.Event()
        """There may be something to send."""
        self._rdma = rdma
        if rdma is not None:
            rdma.changed = self.news.set

    def next_request(self, filling: bytes) -> Parcel:
        """The request that comes next. Raises ``StressError``."""
        seq, index = self._send_seq, self._send_index
        self._sent_at[index] = time.monotonic()
        header = _pack(seq, *self._out, index, _REQUEST)
        control: Controls = ()
        if self._rdma is not None and seq > LAST_WITHOUT_RDMA:
            rest, control = self._rdma.request(seq, index)
            header = header[:_CHECKED_BYTES] + rest
        self._send_index = (self._send_index + 1) % self._depth
        self._send_seq = (self._send_seq + 1) & 0xFFFFFFFF
        self.outstanding += 1
        return header + filling, control

    def check(self) -> None:
        """Raises ``StressError`` where RDMA went wrong for an ack that has gone out."""
        if self._rdma is not None:
            self._rdma.check()

    @property
    def may_ack(self) -> bool:
        """The oldest request that has no ack can have one: what RDMA its slot did before is done."""
        return self._rdma is None or not self._rdma.busy((self._receive_index - self.owed) % self._depth)

    def next_ack(self, filling: bytes) -> Parcel:
        """The ack of the oldest request that has none."""
        index = (self._receive_index - self.owed) % self._depth
        header = _pack(self._send_seq, *self._out, index, _ACK)
        control: Controls = ()
        if self._rdma is not None:
            rest, control = self._rdma.ack(index)
            header = header[:_CHECKED_BYTES] + rest
        self._send_seq = (self._send_seq + 1) & 0xFFFFFFFF
        self.owed -= 1
        return header + filling, control

    def request_came(self, data: bytes, control: Sequence[object] = ()) -> None:
        """Check a request, and note the RDMA that it asks for. Raises ``StressError``."""
        self._check(data, self._receive_index, _REQUEST)
        if self.owed >= self._depth:
            raise StressError(f"{self._who} has more than {self._depth} requests outstanding")
        if self._rdma is not None:
            self._rdma.request_came(self._receive_index, STRESS_MESSAGE.unpack_from(data), control)
        self._receive_index = (self._receive_index + 1) % self._depth
        self.owed += 1

    def ack_came(self, data: bytes, now: float) -> float:
        """Check an ack; returns the seconds since its request. Raises ``StressError``."""
        if not self.outstanding:
            raise StressError(f"{self._who} acks a request that was not made")
        index = (self._send_index - self.outstanding) % self._depth
        self._check(data, index, _ACK)
        if self._rdma is not None:
            self._rdma.ack_came(index)
        self.outstanding -= 1
        return now - self._sent_at[index]

    @property
    def _who(self) -> str:
        return f"{self.peer[0]}:{self.peer[1]}"

    def _check(self, data: bytes, index: int, op: int) -> None:
        expected = _pack(self._receive_seq, *self._in, index, op)
        if data[:_CHECKED_BYTES] != expected[:_CHECKED_BYTES]:
            self._complain(STRESS_MESSAGE.unpack_from(data), STRESS_MESSAGE.unpack_from(expected))
        self._receive_seq = (self._receive_seq + 1) & 0xFFFFFFFF

    def _complain(self, got: StressMessage, expected: StressMessage) -> None:
        wrong = []
        for name in _CHECKED:
            came, should = getattr(got, name), getattr(expected, name)
            if came != should:
                shown = [str(IPv4Address(each)) if isinstance(each, bytes) else str(each) for each in (came, should)]
                wrong.append(f"{name} {shown[0]} instead of {shown[1]}")
        raise StressError(f"a message from {self._who} to port {self._out[2]} has {', '.join(wrong)}")


class Task:
    """One task: a socket and its pairs."""

    def __init__(
        self, node: Node, own: str, peer: str, port: int, parameters: Parameters, counters: Counters, *, asks: bool
    ) -> None:
        self._socket: AsyncSocket = node.socket(port, address=own)
        self._parameters = parameters
        self._counters = counters
        self._filling = Filling(parameters)
        self._asks = asks
        self._pairs = {
            there: Pair((own, port), (peer, there), parameters, self._rdma(number))
            for number, there in enumerate(parameters.ports())
        }
        self._peer = peer

    def _rdma(self, number: int) -> Rdma | None:
        run = self._parameters
        if run.rdma is None:
            return None
        return Rdma(self._socket, run.rdma, run.depth, self._counters, number, verify=run.verify)

    async def run(self, flowing: asyncio.Event) -> None:
        """Talk until cancelled. Raises ``StressError``.

        ``flowing`` is set by the first ack, or request where we make none ourselves.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._receive(flowing))
            for pair in self._pairs.values():
                group.create_task(self._send(pair))

    async def _send(self, pair: Pair) -> None:
        counters, send = self._counters, self._socket.sendmsg
        request, ack = self._filling.request, self._filling.ack
        depth = self._parameters.depth if self._asks else 0
        while True:
            pair.news.clear()
            pair.check()
            while pair.owed or pair.outstanding < depth:
                if pair.owed:
                    if not pair.may_ack:
                        break
                    message, control = pair.next_ack(ack)
                    counters.bytes_sent += await send(message, pair.peer, control=control)
                    counters.acks_sent += 1
                else:
                    began = time.monotonic()
                    message, control = pair.next_request(request)
                    counters.bytes_sent += await send(message, pair.peer, control=control)
                    counters.send_us += round((time.monotonic() - began) * 1e6)
                    counters.requests_sent += 1
            await pair.news.wait()

    async def _receive(self, flowing: asyncio.Event) -> None:
        receive = self._socket.recvmsg
        while True:
            message = await receive()
            if message.address:
                self._take(message)
                if not self._asks or self._counters.acks_received:
                    flowing.set()

    def _take(self, message: ReceivedMessage) -> None:
        data, counters = message.data, self._counters
        pair = self._pairs.get(message.port)
        if pair is None or message.address != self._peer:
            raise StressError(f"{message.address}:{message.port} sends to a task that it has no part in")
        if len(data) < MESSAGE_BYTES:
            raise StressError(f"{message.address}:{message.port} sent {len(data)} bytes, a message has {MESSAGE_BYTES}")
        counters.bytes_received += len(data)
        op = data[_CHECKED_BYTES - 1]
        if op == _REQUEST:
            self._whole(message, self._parameters.request_bytes, self._filling.request)
            pair.request_came(data, message.control)
            counters.requests_received += 1
        elif op == _ACK:
            self._whole(message, self._parameters.ack_bytes, self._filling.ack)
            took_us = round(pair.ack_came(data, time.monotonic()) * 1e6)
            counters.round_trip(took_us, self._socket.getsockname()[1], f"{message.address}:{message.port}")
            counters.acks_received += 1
        else:
            raise StressError(f"{message.address}:{message.port} sent a message that is neither request nor ack ({op})")
        pair.news.set()

    def _whole(self, message: ReceivedMessage, size: int, filling: bytes) -> None:
        data, who = message.data, f"{message.address}:{message.port}"
        if len(data) != size:
            raise StressError(f"{who} sent {len(data)} bytes, {size} were agreed")
        if self._parameters.verify and data[MESSAGE_BYTES:] != filling:
            wrong = [at for at, (a, b) in enumerate(zip(data[MESSAGE_BYTES:], filling, strict=True)) if a != b]
            raise StressError(
                f"a message from {who} is damaged: {len(wrong)} of {len(filling)} bytes, the first {wrong[0]} bytes "
                "behind its header"
            )

    def close(self) -> None:
        """Give up the socket."""
        self._socket.close()
