"""One reliable connection, as the engine sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from rdstool.protocol.config import Settings
from rdstool.protocol.ib.assembler import Assembler
from rdstool.protocol.ib.flow import FlowControl
from rdstool.protocol.ib.operations import RemoteOperation
from rdstool.protocol.ib.private import Greeting
from rdstool.protocol.ib.work import Work
from rdstool.protocol.link import BaseLink, LinkOwner
from rdstool.protocol.outgoing import Outgoing


class IbOwner(LinkOwner, Protocol):
    """What a reliable connection needs of its owner: who answers for all that happens to it."""

    def reply(self) -> bytes:
        """Private data of the answer to the peer's request."""

    def established(self, link: IbLink, said: Greeting | None, now: float) -> None:
        """The connection is established; ``said`` is what the peer's answer told, where we have asked."""

    def receives_posted(self, link: IbLink, receives: int) -> None:
        """``receives`` more were posted for frames."""

    def work_to_post(self, link: IbLink) -> list[Work]:
        """The work requests to post, in this order."""

    def frames_received(self, link: IbLink, frames: Sequence[bytes], now: float) -> None:
        """Frames have come."""

    def work_completed(self, link: IbLink, work: int, status: int, original: int, now: float) -> None:
        """A work request has ended."""


class Transmission:
    """A message on its way into the send ring."""

    __slots__ = ("ack", "at", "exthdr", "fence", "flags", "header", "message", "payload", "work")

    def __init__(self, message: Outgoing | None, payload: bytes, flags: int, exthdr: bytes) -> None:
        self.message = message
        """None for the congestion map."""
        self.payload = payload
        self.flags = flags
        self.exthdr = exthdr
        self.work: deque[Work] = deque()
        """RDMA and atomics that go first."""
        self.header = b""
        """What each fragment begins with; made when the first one is posted."""
        self.at = -1
        """Payload bytes that are posted; -1 where no fragment is."""
        self.ack = 0
        """What all of its fragments acknowledge."""
        self.fence = False
        """The last fragment waits until reads and atomics before it have ended."""


class IbLink(BaseLink):
    """What the engine and the transport call a reliable connection by."""

    owner: IbOwner

    __slots__ = (
        "ack",
        "ack_id",
        "ack_in_flight",
        "ack_told",
        "ack_wanted",
        "assembler",
        "flow",
        "greeting",
        "next_id",
        "operations",
        "posted",
        "receives_due",
        "receives_known",
        "reposted",
        "signal_every",
        "silent",
        "transmission",
    )

    def __init__(self, owner: IbOwner, number: int, settings: Settings, *, incoming: bool) -> None:
        super().__init__(owner, number, incoming=incoming)
        self.greeting: Greeting | None = None
        """What the peer's private data said."""
        self.assembler = Assembler(settings.limits.message_bytes)
        self.flow: FlowControl | None = None
        """Credits, where both sides use them."""
        self.ack = 0
        """Sequence of the last message received: ``h_ack`` of what is sent (kernel ``i_ack_next``)."""
        self.ack_told = 0
        """What the peer was told of that."""
        self.ack_wanted = False
        """The peer is to be told soon."""
        self.ack_in_flight = False
        """An ack-only frame is posted: one at a time."""
        self.ack_id = 0
        self.next_id = 1
        self.signal_every = settings.ib_max_unsignaled_wr + 1
        """One frame in so many asks for a completion."""
        self.posted: deque[int] = deque()
        """Work requests that are not known to be completed, by number, the ack-only frame not counted."""
        self.receives_due = settings.ib_max_recv_wr
        """Receives that the transport has yet to post."""
        self.receives_known = False
        """The first receives are posted: they are those that the private data told of."""
        self.reposted = 0
        """Receives posted since, before it was known whether the peer counts them."""
        self.transmission: Transmission | None = None
        self.operations: dict[int, RemoteOperation] = {}
        """RDMA and atomics under way, by work request."""
        self.silent: dict[Outgoing, None] = {}
        """Messages without a frame, whose operations are under way."""

    def new_id(self) -> int:
        """A number for a work request."""
        self.next_id += 1
        return self.next_id

    def __repr__(self) -> str:
        return f"<IbLink {self.number} {self.owner.local}-{self.owner.peer} tos {self.owner.tos}>"
