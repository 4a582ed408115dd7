"""Nodes joined without an adapter: what one posts the other receives at once, and memory is copied."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER, RdsHeader
from rdstool.protocol import events
from rdstool.protocol.config import Settings
from rdstool.protocol.ib.connection import IbConnection
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.memory import Access, Memory
from rdstool.protocol.ib.port import REJECT_DATA
from rdstool.protocol.ib.work import CompareSwapWork, FetchAddWork, Read, Send, Work, WorkStatus, Write
from rdstool.protocol.kinds import Transport
from rdstool.protocol.node import Node
from rdstool.protocol.profile import LINUX_7, Profile
from rdstool.protocol.sockets import Socket

ONE, TWO = "10.0.0.1", "10.0.0.2"


@dataclass(frozen=True)
class HeldRegion:
    """Memory of a :class:`Memories`."""

    address: int
    length: int
    lkey: int
    rkey: int
    access: Access
    view: memoryview


class Memories:
    """What stands for an adapter's memory: keys that count up from 0x100."""

    def __init__(self) -> None:
        self.regions: dict[int, HeldRegion] = {}
        self._next = 0x100

    def register(self, memory: Memory, access: Access) -> HeldRegion:
        """Make memory known, from address 0 on."""
        view = memoryview(memory).cast("B")
        key, self._next = self._next, self._next + 1
        self.regions[key] = HeldRegion(0, len(view), key, key, access, view)
        return self.regions[key]

    def deregister(self, region: Any) -> None:
        """Forget it."""
        self.regions.pop(region.rkey, None)

    def piece(self, rkey: int, address: int, size: int, access: Access) -> memoryview | None:
        """What a peer may use; None where it may not."""
        region = self.regions.get(rkey)
        if region is None or not region.access & access or address < 0 or address + size > region.length:
            return None
        return region.view[address : address + size]


class Frame(NamedTuple):
    """One SEND."""

    header: RdsHeader
    data: bytes
    solicited: bool
    fence: bool


def frame_of(work: Work) -> Frame:
    """The frame of a SEND."""
    assert isinstance(work, Send)
    header = RDS_HEADER.unpack_from(work.frame)
    return Frame(header, work.frame[HEADER_BYTES:], work.solicited, work.fence)


def make_node(address: str = ONE, *, seed: int = 1, profile: Profile = LINUX_7, **settings: Any) -> Node:
    """A node over InfiniBand."""
    node = Node(address, random=Random(seed), settings=Settings(**settings), profile=profile, transport=Transport.IB)
    node.registrars[address] = Memories()
    return node


def bound(node: Node, port: int = 4000, tos: int = 0) -> Socket:
    """A socket on the node's address."""
    socket = node.socket()
    socket.bind(next(iter(node.ports)), port)
    if tos:
        socket.set_tos(tos)
    return socket


def connection_of(node: Node, peer: str, tos: int = 0) -> IbConnection:
    """What the node shares with a peer."""
    found = node.connections[next(iter(node.ports)), peer, tos]
    assert isinstance(found, IbConnection)
    return found


def memories_of(node: Node) -> Memories:
    """The node's regions."""
    (found,) = node.registrars.values()
    assert isinstance(found, Memories)
    return found


class Fabric:
    """Joins nodes. ``sent`` has all frames in order, ``events`` what was not for the transport."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = {address: node for node in nodes for address in node.ports}
        self.far: dict[IbLink, tuple[Node, IbLink]] = {}
        self.sent: list[tuple[str, Frame]] = []
        """(sender's address, frame)"""
        self.work: list[Work] = []
        """All but SENDs."""
        self.events: list[events.Event] = []
        self.now = 0.0
        self.completing = True
        """Sends and receives are completed; off, they stay in the ring."""
        self.deaf: set[str] = set()
        """Addresses whose adapter has what was sent to it, but whose engine never gets it."""

    def run(self, now: float | None = None) -> None:
        """Move everything until nothing moves."""
        self.now = self.now if now is None else now
        moved = True
        while moved:
            moved = False
            for node in self.nodes.values():
                due = node.next_timer()
                if due is not None and due <= self.now:
                    node.timer_expired(self.now)
                for event in node.take_events():
                    moved = True
                    self._obey(node, event)
                for link in node.take_ready():
                    assert isinstance(link, IbLink)
                    moved = self._move(node, link) or moved

    def wait(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.now + seconds
        while True:
            timers = [due for node in self.nodes.values() if (due := node.next_timer()) is not None]
            if not timers or min(timers) > end:
                break
            self.run(max(self.now, *[min(timers)]))
        self.run(end)

    def frames(self, sender: str) -> list[Frame]:
        """What one node sent since the last call."""
        taken = [frame for address, frame in self.sent if address == sender]
        self.sent = [(address, frame) for address, frame in self.sent if address != sender]
        return taken

    def cut(self, node: Node, peer: str, tos: int = 0) -> None:
        """End a connection for both sides."""
        link = connection_of(node, peer, tos).lane.link
        assert link is not None
        other, far = self.far.pop(link)
        self.far.pop(far)
        node.connection_lost(link, "cut", self.now)
        other.connection_lost(far, "cut", self.now)

    def _obey(self, node: Node, event: events.Event) -> None:
        match event:
            case events.IbConnectWanted(link=link, local=local, peer=peer, private_data=data):
                node.ib.receives_to_post(link)
                target = self.nodes.get(peer)
                if target is None:
                    node.connect_failed(link, "no such host", self.now)
                    return
                far = target.ib.requested(peer, local, data.ljust(56, b"\0"), self.now)
                if far is None:
                    node.ib.refused(link, REJECT_DATA.ljust(148, b"\0"), self.now)
                    return
                target.ib.receives_to_post(far)
                self.far[link], self.far[far] = (target, far), (node, link)
                node.ib.established(link, target.ib.reply(far).ljust(196, b"\0"), self.now)
                target.ib.established(far, b"", self.now)
            case events.AbortWanted(link=link):
                assert isinstance(link, IbLink)
                if link in self.far:
                    other, far = self.far.pop(link)
                    self.far.pop(far)
                    other.connection_lost(far, "ended", self.now)
                node.connection_lost(link, "ended", self.now)
            case _:
                self.events.append(event)

    def _move(self, node: Node, link: IbLink) -> bool:
        if link not in self.far:
            return False
        other, far = self.far[link]
        work = node.ib.work_to_post(link)
        for each in work:
            status, original = WorkStatus.SUCCESS, 0
            if isinstance(each, Send):
                self.sent.append((link.owner.local, frame_of(each)))
                if self.completing and far.owner.local not in self.deaf:
                    other.ib.frames_received(far, [each.frame], self.now)
            else:
                self.work.append(each)
                status, original = _execute(each, memories_of(other))
            if self.completing and (status or not isinstance(each, Send) or each.signaled):
                node.ib.work_completed(link, each.id, status, self.now, original)
        other.ib.receives_to_post(far)
        return bool(work)


def _execute(work: Work, memories: Memories) -> tuple[WorkStatus, int]:
    """RDMA and atomics on a peer's memory."""
    refused = WorkStatus.REMOTE_ACCESS_ERROR, 0
    match work:
        case Write(data=data, address=address, rkey=rkey):
            there = memories.piece(rkey, address, len(data), Access.REMOTE_WRITE)
            if there is None:
                return refused
            there[:] = data
        case Read(into=into, address=address, rkey=rkey):
            there = memories.piece(rkey, address, into.length, Access.REMOTE_READ)
            if there is None:
                return refused
            assert isinstance(into, HeldRegion)
            into.view[:] = there
        case FetchAddWork(address=address, rkey=rkey) | CompareSwapWork(address=address, rkey=rkey):
            there = memories.piece(rkey, address, 8, Access.REMOTE_ATOMIC)
            if there is None:
                return refused
            before = int.from_bytes(there, "little")
            if isinstance(work, FetchAddWork):
                there[:] = ((before + work.add) % (1 << 64)).to_bytes(8, "little")
            elif before == work.compare:
                there[:] = work.swap.to_bytes(8, "little")
            return WorkStatus.SUCCESS, before
        case _:
            raise AssertionError(work)
    return WorkStatus.SUCCESS, 0


def pair(**settings: Any) -> tuple[Node, Node, Fabric]:
    """Two nodes and what joins them."""
    one, two = make_node(ONE, seed=1, **settings), make_node(TWO, seed=2, **settings)
    return one, two, Fabric(one, two)


def received(socket: Socket) -> list[bytes]:
    """All that a socket has to read."""
    taken = []
    while socket.received:
        taken.append(socket.recvmsg(now=socket.node.now).data)
    return taken
