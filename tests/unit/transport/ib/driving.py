"""Two devices that talk to each other directly, at a time that the test sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple, TypeVar

from dissectors.wire.cm import Attribute, CmReq
from dissectors.wire.infiniband import BTH, Bth, Opcode
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import Completed, ConnectionOptions, ConnectRequested, Event, Status
from rdstool.transport.ib.roce import mads
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.device import Device
from rdstool.transport.ib.roce.flow import Flow
from rdstool.transport.ib.roce.mads import ManagementMessage, unpack
from rdstool.transport.ib.roce.numbers import gid_of

ACTIVE, PASSIVE = "192.0.2.1", "192.0.2.2"
SERVICE = 0x0106_1C06
QUICK = ConnectionOptions(ack_timeout=14)
ALL = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
TEXT = bytes(index * 7 & 0xFF for index in range(10_000))
"""Longer than a packet."""
E = TypeVar("E")
Filter = Callable[[str, Bth, bytes], list[bytes]]
"""(source address, BTH, datagram) -> what arrives in its place"""


class Datagram(NamedTuple):
    """One of what a device sends."""

    source_port: int
    destination: str
    data: bytes


def sent(device: Device, now: float) -> list[Datagram]:
    """What a device sends next, one by one."""
    return [Datagram(port, peer, data) for port, peer, several in device.transmit(now) for data in several]


def everything(_: str, __: Bth, datagram: bytes) -> list[bytes]:
    """A network without faults."""
    return [datagram]


class Pair:
    """An active and a passive device. ``wire`` tells every packet as (source, opcode name, PSN)."""

    def __init__(self, active: str = ACTIVE, passive: str = PASSIVE) -> None:
        self.now = 0.0
        self.active = Device(active, Random(1), (4791, 49152))
        self.passive = Device(passive, Random(2), (50000,))
        self.filter: Filter = everything
        self.wire: list[tuple[str, str, int]] = []
        self.passive.listen(SERVICE)

    def settle(self) -> None:
        """Do what is due, and exchange datagrams until there are no more."""
        self.active.advance(self.now)
        self.passive.advance(self.now)
        while self._carry(self.active, self.passive) + self._carry(self.passive, self.active):
            pass

    def wait(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        self.settle()
        end = self.now + seconds
        while True:
            due = [when for device in (self.active, self.passive) if (when := device.next_timer()) is not None]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            self.settle()
        self.now = end
        self.settle()

    def _carry(self, source: Device, target: Device) -> int:
        batch = sent(source, self.now)
        self.deliver(source, target, batch)
        return len(batch)

    def deliver(self, source: Device, target: Device, batch: list[Datagram]) -> None:
        """Hand datagrams over, through the filter."""
        for outgoing in batch:
            bth = BTH.unpack_from(outgoing.data)
            self.wire.append((source.address, _name(bth, outgoing.data), bth.psn))
            for data in self.filter(source.address, bth, outgoing.data):
                target.receive([data], source.address, outgoing.source_port, self.now)

    def connect(
        self, options: ConnectionOptions = QUICK, private_data: bytes = b"", answer: bytes = b""
    ) -> tuple[RoceConnection, RoceConnection]:
        """An established connection: its active and its passive end. Events so far are taken."""
        active = self.active.connect(self.passive.address, SERVICE, private_data, options)
        self.settle()
        passive = one(self.passive, ConnectRequested).connection
        assert isinstance(passive, RoceConnection)
        passive.accept(answer, options)
        self.settle()
        self.active.take_events()
        self.passive.take_events()
        self.wire.clear()
        return active, passive


def _name(bth: Bth, datagram: bytes) -> str:
    if bth.opcode == Opcode.UD_SEND_ONLY:
        message = unpack(datagram)
        return message.attribute.name if message is not None else "?"
    return Opcode(bth.opcode).name


def one(device: Device, kind: type[E]) -> E:
    """The only event that has come, which is of ``kind``."""
    (event,) = device.take_events()
    assert isinstance(event, kind), event
    return event


def of_kind(events: list[Event], kind: type[E]) -> list[E]:
    """Those of a kind."""
    return [event for event in events if isinstance(event, kind)]


def statuses(device: Device) -> list[tuple[int, Status]]:
    """(wr_id, status) of what was completed; other events are dropped."""
    return [(done.wr_id, done.status) for done in of_kind(device.take_events(), Completed)]


def messages(device: Device) -> list[bytes]:
    """What was received; other events are dropped."""
    return [done.data for done in of_kind(device.take_events(), Completed) if done.data]


def flip(data: bytes, at: int) -> bytes:
    """One bit of a datagram is wrong."""
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def receives(connection: RoceConnection, count: int = 1, size: int = 16_384) -> None:
    """Post so many receives, each of ``size`` bytes."""
    for number in range(count):
        connection.post_receive(number, size)


def lose(*lost: tuple[str, int]) -> Filter:
    """Lose the n-th packet, from 1, of each of these opcodes."""
    seen: dict[str, int] = {}

    def apply(_: str, bth: Bth, datagram: bytes) -> list[bytes]:
        name = Opcode(bth.opcode).name
        seen[name] = seen.get(name, 0) + 1
        return [] if (name, seen[name]) in lost else [datagram]

    return apply


def opcodes(pair: Pair, source: str) -> list[str]:
    """Names of the packets that an address has sent, in their order."""
    return [name for sender, name, _ in pair.wire if sender == source]


# ---- Management messages


def message(outgoing: Datagram) -> ManagementMessage:
    """The management message that a datagram is."""
    found = unpack(outgoing.data)
    assert found is not None
    return found


def tell(device: Device, attribute: Attribute, body: Any, peer: str = ACTIVE) -> list[Any]:
    """Send a message to a device; what it answers."""
    flow = Flow(peer, 49152, device.address)
    datagram = flow.seal(mads.head(0), mads.pack(ManagementMessage(attribute, 99, body)), 0)
    device.receive([datagram], peer, 49152, device.now)
    return [message(outgoing).body for outgoing in sent(device, device.now)]


def request(**fields: Any) -> CmReq:
    """A REQ of the active side, with these fields."""
    wanted: dict[str, Any] = {
        "local_comm_id": 0x100, "service_id": SERVICE, "local_qpn": 0x55, "path_mtu": 3,
        "primary_local_gid": gid_of(ACTIVE), "primary_remote_gid": gid_of(PASSIVE), "primary_ack_timeout": 17,
    }  # fmt: skip
    return CmReq(**wanted | fields)


def asked(pair: Pair, private_data: bytes = b"", **options: Any) -> tuple[RoceConnection, RoceConnection]:
    """The active side has sent REQ, and the passive one has seen it."""
    active = pair.active.connect(PASSIVE, SERVICE, private_data, replace(QUICK, **options))
    pair.settle()
    passive = one(pair.passive, ConnectRequested).connection
    assert isinstance(passive, RoceConnection)
    return active, passive


def lose_messages(*lost: str) -> Filter:
    """Lose all management datagrams of these kinds."""

    def apply(_: str, __: Bth, datagram: bytes) -> list[bytes]:
        message = unpack(datagram)
        return [] if message is not None and message.attribute.name in lost else [datagram]

    return apply


def names(pair: Pair) -> list[str]:
    """The management messages that were sent, in order."""
    return [name for _, name, _ in pair.wire]
