"""A real kernel's frames, fed to a device that takes the place of the other kernel.

The device is given the numbers that the other kernel chose. Then everything that it sends must be what that kernel
sent, packet for packet: the answers of communication management, acknowledgements, responses to READs, and the
requests that the test posts when the kernel did.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dissectors.wire.cm import Attribute
from dissectors.wire.infiniband import AETH, BTH, RETH, Bth, Opcode
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import (
    Completed,
    ConnectionOptions,
    ConnectRequested,
    Established,
    Operation,
    Segment,
    Status,
)
from rdstool.transport.ib.roce import mads, requester
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.device import Device
from rdstool.transport.ib.roce.mads import ManagementMessage, unpack
from rdstool.transport.ib.roce.packets import KINDS, Part
from tests.kit.pcap import roce_frames
from tests.unit.transport.ib.driving import sent

RECEIVE_BYTES = 4144
REGION_BYTES = 1 << 20
"""As much as RDS maps at once."""
ALL = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC


@dataclass(frozen=True)
class Packet:
    """One RoCE packet of a capture."""

    source: str
    port: int
    bth: Bth
    data: bytes

    @property
    def name(self) -> str:
        return Opcode(self.bth.opcode).name

    @property
    def payload(self) -> bytes:
        kind = KINDS[self.bth.opcode]
        assert kind is not None
        return self.data[kind.header : -4 - self.bth.padcount]

    @property
    def message(self) -> ManagementMessage | None:
        return unpack(self.data) if self.bth.opcode == Opcode.UD_SEND_ONLY else None


def packets(path: Path) -> Iterator[Packet]:
    """The packets of a capture, up to the first gap in either direction's requests."""
    for frame in roce_frames(path):
        port, length = struct.unpack_from(">H2xH", frame, 34)
        data = frame[42 : 34 + length]
        yield Packet(str(IPv4Address(frame[26:30])), port, BTH.unpack_from(data), data)


class Scripted(Random):
    """Gives the numbers that the kernel chose, by size, and any others once those are used up."""

    def __init__(self, queue_pair: int, **numbers: list[int]) -> None:
        super().__init__(1)
        self.queue_pair: int | None = queue_pair
        self.numbers = {int(bits[1:]): deque(values) for bits, values in numbers.items()}

    def getrandbits(self, k: int, /) -> int:
        waiting = self.numbers.get(k)
        return waiting.popleft() if waiting else super().getrandbits(k)

    def randrange(self, *limits: int) -> int:  # type: ignore[override]
        number, self.queue_pair = self.queue_pair, None
        return super().randrange(*limits) if number is None else number


class Replay:
    """One end of a capture's first connection, played by a device."""

    def __init__(self, found: list[Packet], active: bool) -> None:
        told = [(packet, message) for packet in found if (message := packet.message) is not None]
        self.reply = next(message for _, message in told if message.attribute == Attribute.REP)
        asker, self.request = next(
            (packet.source, message)
            for packet, message in told
            if message.attribute == Attribute.REQ and message.body.local_comm_id == self.reply.body.remote_comm_id
        )
        self.active = active
        ours, theirs = (self.request, self.reply) if active else (self.reply, self.request)
        answerer = next(packet.source for packet in found if packet.source != asker)
        self.us, self.them = (asker, answerer) if active else (answerer, asker)
        self.number, self.their_number = ours.body.local_qpn, theirs.body.local_qpn
        self.found = list(self.own(found))
        keys = dict.fromkeys(
            RETH.unpack_from(packet.data, BTH.size).rkey
            for packet in self.found
            if packet.source == self.them and packet.name in {"WRITE_FIRST", "WRITE_ONLY", "READ_REQUEST"}
        )
        both = [key for key in keys for _ in range(2)]
        random = Scripted(
            self.number, _32=[1, 1, *both, ours.body.local_comm_id], _24=[ours.body.starting_psn],
            _64=[ours.transaction] if active else [],
        )  # fmt: skip
        self.device = Device(self.us, random)
        self.landing = bytearray(1 << 20)
        self.region = self.device.register(self.landing, Access.LOCAL_WRITE)
        for _ in keys:
            self.device.register(bytearray(REGION_BYTES), ALL)
        self.connection: RoceConnection | None = None
        self.posted = 0
        self.sent: dict[str, deque[bytes]] = {"request": deque(), "response": deque(), "message": deque()}
        """What the device sent: the order is fixed within each of these only."""
        self.parts: list[bytes] = []
        self.received: list[bytes] = []
        self.compared = 0

    def own(self, found: list[Packet]) -> Iterator[Packet]:
        """The packets of the connection, up to its end."""
        ids = {self.request.body.local_comm_id, self.reply.body.local_comm_id}
        numbers = {self.us: self.their_number, self.them: self.number}
        for packet in found:
            message = packet.message
            if message is None:
                if packet.bth.dqpn == numbers[packet.source]:
                    yield packet
            elif message.body.local_comm_id in ids:
                if message.attribute == Attribute.DREQ:
                    return
                yield packet

    def begin(self, connection: Any) -> None:
        self.connection = connection
        for number in range(256):
            connection.post_receive(number, RECEIVE_BYTES)

    def run(self) -> None:
        options = ConnectionOptions(path_mtu=1024)
        if self.active:
            _, data = mads.ip_header(self.request.body.private)
            self.begin(self.device.connect(self.them, self.request.body.service_id, data, options))
            self.collect()
        else:
            self.device.listen(self.request.body.service_id)
        for packet in self.found:
            if packet.source == self.them:
                self.device.receive([packet.data], packet.source, packet.port, 0.0)
                self.events()
                self.collect()
            else:
                self.compare(packet)

    def collect(self) -> None:
        for outgoing in sent(self.device, 0.0):
            kind = KINDS[outgoing.data[0]]
            sort = "message" if kind is None else "response" if kind.response else "request"
            self.sent[sort].append(outgoing.data)

    def events(self) -> None:
        for event in self.device.take_events():
            if isinstance(event, ConnectRequested):
                self.begin(event.connection)
                event.connection.accept(self.reply.body.private)
            elif isinstance(event, Completed):
                assert event.status is Status.SUCCESS
                if event.operation is Operation.RECEIVE:
                    self.received.append(event.data)
                    event.connection.post_receive(0, RECEIVE_BYTES)
            else:
                assert isinstance(event, Established)

    def compare(self, packet: Packet) -> None:
        """The kernel sent this: so must the device have done, or do when the same is posted."""
        if packet.message is not None:
            self.compare_messages(packet.message)
            return
        kind = KINDS[packet.bth.opcode]
        assert kind is not None
        assert self.connection is not None
        if not kind.response:
            self.post(packet)
            if not kind.ends:
                return
            self.collect()
            wanted = [*self.parts, packet.data]
            self.parts.clear()
        else:
            wanted = [packet.data]
        sent = self.sent["response" if kind.response else "request"]
        for data in wanted:
            assert sent, f"the kernel sent {packet.name} with PSN {packet.bth.psn:#x}, the device nothing"
            self.same(sent.popleft(), data)
            self.compared += 1

    def post(self, packet: Packet) -> None:
        """Post the request that a packet ends."""
        if not KINDS[packet.bth.opcode].ends:  # type: ignore[union-attr]
            self.parts.append(packet.data)
            return
        whole = [Packet(packet.source, packet.port, BTH.unpack_from(data), data) for data in self.parts] + [packet]
        data = b"".join(part.payload for part in whole)
        assert self.connection is not None
        self.posted += 1
        part = KINDS[packet.bth.opcode].part  # type: ignore[union-attr]
        if part is Part.SEND:
            self.connection.post_send(self.posted, data, solicited=bool(packet.bth.solicited))
            return
        remote = RETH.unpack_from(whole[0].data, BTH.size)
        if part is Part.WRITE:
            self.connection.post_write(self.posted, data, remote.va, remote.rkey)
        else:
            into = (self.region.address, remote.dlen, self.region.lkey)
            self.connection.post_read(self.posted, Segment(*into), remote.va, remote.rkey)

    def compare_messages(self, kernel: ManagementMessage) -> None:
        sent = self.sent["message"]
        assert sent, f"the kernel sent {kernel.attribute.name}, the device nothing"
        ours = unpack(sent.popleft())
        assert ours is not None
        assert (ours.attribute, ours.transaction) == (kernel.attribute, kernel.transaction)
        for name in ("local_comm_id", "remote_comm_id", "service_id", "local_qpn", "starting_psn", "path_mtu",
                     "primary_local_gid", "primary_remote_gid", "primary_local_lid", "primary_hop_limit", "rnr_retry",
                     "responder_resources", "initiator_depth", "target_ack_delay"):  # fmt: skip
            assert getattr(ours.body, name, None) == getattr(kernel.body, name, None), name
        skipped = 4 if kernel.attribute == Attribute.REQ else 0  # the source port is chosen anew
        assert ours.body.private[skipped:] == kernel.body.private[skipped:]
        self.compared += 1

    def same(self, ours: bytes, kernel: bytes) -> None:
        """Equal but for the ICRC, and for what memory held that the capture does not show."""
        head = BTH.unpack_from(kernel)
        kind = KINDS[head.opcode]
        assert kind is not None
        assert len(ours) == len(kernel)
        end = kind.header if kind.part is Part.READ_RESPONSE else -4
        if not kind.ends:
            # Each asks for an acknowledgement within a message where its own window wants one.
            ours, kernel = (data[:8] + bytes([data[8] & 0x7F]) + data[9:] for data in (ours, kernel))
        assert ours[:end].hex() == kernel[:end].hex(), f"{Opcode(head.opcode).name} with PSN {head.psn:#x}"
        if kind.part is Part.ACKNOWLEDGE:
            assert AETH.unpack_from(ours, BTH.size) == AETH.unpack_from(kernel, BTH.size)


@pytest.mark.parametrize("active", [True, False], ids=["active", "passive"])
@pytest.mark.parametrize("name", ["ib-basic-73", "ib-rdma-61", "ib-rdma-73"])
def test_a_device_says_what_the_kernel_said(
    pcaps: Path, name: str, active: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the kernel's window, and READs in one piece, as rxe has them."""
    monkeypatch.setattr(requester, "FIRST_WINDOW", requester.MOST_WINDOW)
    monkeypatch.setattr(requester, "READ_PIECE", requester.MOST_WINDOW)
    replay = Replay(list(packets(pcaps / name / "a.pcap.gz")), active)
    replay.run()
    assert not any(replay.sent.values())
    assert replay.received
    assert replay.compared > 100
