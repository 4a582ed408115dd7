"""RDS over RoCE v2 as a script of steps, rendered to a capture."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from dissectors.wire.checksum import with_checksum
from dissectors.wire.cm import (
    CM_MESSAGES,
    IP_CM,
    MAD,
    QKEY_GSI,
    RDS_PRIVATE_V4,
    SERVICE_ID_TCP,
    Attribute,
    CmRej,
    CmRep,
    CmReq,
    CmRtu,
    IpCm,
    Mad,
    RdsPrivateV4,
)
from dissectors.wire.encapsulation import ROCE_UDP_PORT
from dissectors.wire.extensions import Rdma, RdmaBytes, RdmaDest, RdmaDirection
from dissectors.wire.infiniband import AETH, BTH, DETH, RETH, Aeth, Bth, Deth, Opcode, Reth
from dissectors.wire.rds import FRAGMENT_BYTES, IB_CM_PORT, RDS_HEADER, RdsHeader
from tests.kit.pcap import IP_UDP, Pcap
from tests.kit.rds import header, text

ACTIVE, PASSIVE = "10.1.0.1", "10.1.0.2"
ENDS = (ACTIVE, PASSIVE)
QPS = (0x11, 0x12)
PSNS = (1000, 5000)
GENERATION = 0x10
"""Distance of queue pairs and communication IDs of two connections."""
MTU = 1024
RKEY = 0x300
ACK, FLAGGED = 0x02, 0x04
EXTENDED = 0x20


@dataclass(slots=True)
class Cm:
    """A message of RDMA-CM. ``private`` is what stands behind the IP header (REQ) or at the front (REP)."""

    direction: int
    body: CmReq | CmRep | CmRtu | CmRej
    attribute: Attribute
    ip: IpCm | None = None
    private: RdsPrivateV4 | bytes = b""
    tail: bytes = b""
    label: str = ""
    transaction: int = 0x1234


@dataclass(slots=True)
class Fragment:
    """One SEND: 48 bytes of header and data."""

    header: bytes
    data: bytes
    solicited: bool
    opcode: Opcode | None = None
    """None: by its size."""


@dataclass(slots=True)
class Send:
    """One message, cut into fragments; ``edit`` may change them."""

    direction: int
    header: RdsHeader
    payload: bytes = b""
    label: str = ""
    edit: Callable[[list[Fragment]], None] | None = None
    checksummed: bool = True


@dataclass(slots=True)
class Write:
    """RDMA WRITE with its acknowledgement."""

    direction: int
    rkey: int
    data: bytes
    label: str = ""
    claimed: int | None = None
    """Length in the RETH, where it is not that of the data."""


@dataclass(slots=True)
class Wait:
    """Let time pass."""

    seconds: float


@dataclass(slots=True)
class Lose:
    """Packets of a direction that the capture does not hold."""

    direction: int
    packets: int


@dataclass(slots=True)
class Again:
    """What follows uses the queue pairs of the next connection."""


Step = Cm | Send | Write | Wait | Lose | Again


@dataclass(slots=True)
class Script:
    """Steps in order."""

    steps: list[Step] = field(default_factory=list)

    def __getitem__(self, label: str) -> Any:
        """The step of that label."""
        return next(step for step in self.steps if getattr(step, "label", "") == label)

    def index(self, label: str) -> int:
        """Place of the step of that label."""
        return next(i for i, step in enumerate(self.steps) if getattr(step, "label", "") == label)

    def change(self, label: str, **fields: Any) -> None:
        """Set header fields of a message."""
        step = self[label]
        step.header = replace(step.header, **fields)

    def private(self, label: str, **fields: Any) -> None:
        """Set fields of a CM message's private data."""
        step = self[label]
        step.private = replace(step.private, **fields)

    def body(self, label: str, **fields: Any) -> None:
        """Set fields of a CM message."""
        step = self[label]
        step.body = replace(step.body, **fields)

    def after(self, label: str, *steps: Step) -> None:
        """Insert steps behind another."""
        at = self.index(label) + 1
        self.steps[at:at] = steps

    def drop(self, label: str) -> None:
        """Take a step out."""
        del self.steps[self.index(label)]

    def write(self, path: Path) -> Path:
        """Render to a pcap file."""
        return _Renderer().render(self.steps).write(path)


class _Renderer:
    def __init__(self) -> None:
        self.pcap = Pcap()
        self.psn = list(PSNS)
        self.msn = [0, 0]
        self.generation = 0

    def render(self, steps: list[Step]) -> Pcap:
        for step in steps:
            handler: Callable[[Any], None] = getattr(self, type(step).__name__.lower())
            handler(step)
        return self.pcap

    def cm(self, step: Cm) -> None:
        private = step.private if isinstance(step.private, bytes) else RDS_PRIVATE_V4.pack(step.private)
        front = IP_CM.pack(step.ip) if step.ip is not None else b""
        size = len(step.body.private)
        body = replace(step.body, private=(front + private + step.tail).ljust(size, b"\0")[:size])
        codec: Any = CM_MESSAGES[step.attribute]
        transaction = step.transaction + self.generation
        mad = MAD.pack(Mad(transaction_id=transaction, attribute_id=step.attribute)) + codec.pack(body)
        deth = DETH.pack(Deth(qkey=QKEY_GSI, sqpn=1))
        self._packet(step.direction, Opcode.UD_SEND_ONLY, 1, 0, deth + mad)

    def send(self, step: Send) -> None:
        raw = with_checksum(step.header) if step.checksummed else RDS_HEADER.pack(step.header)
        count = max(1, -(-len(step.payload) // FRAGMENT_BYTES))
        pieces = [step.payload[i * FRAGMENT_BYTES : (i + 1) * FRAGMENT_BYTES] for i in range(count)]
        fragments = [Fragment(raw, piece, index == count - 1) for index, piece in enumerate(pieces)]
        if step.edit is not None:
            step.edit(fragments)
        for fragment in fragments:
            self._send_fragment(step.direction, fragment)

    def _send_fragment(self, direction: int, fragment: Fragment) -> None:
        data = fragment.header + fragment.data
        pieces = [data[i : i + MTU] for i in range(0, len(data), MTU)]
        for index, piece in enumerate(pieces):
            first, last = index == 0, index == len(pieces) - 1
            opcode = {
                (True, True): Opcode.SEND_ONLY,
                (True, False): Opcode.SEND_FIRST,
                (False, True): Opcode.SEND_LAST,
                (False, False): Opcode.SEND_MIDDLE,
            }[first, last]
            body = piece
            if last and fragment.opcode is not None:
                opcode = fragment.opcode
                body = bytes(4) + piece
            self._request(direction, opcode, body, solicited=last and fragment.solicited)
        self._acknowledge(direction)

    def write(self, step: Write) -> None:
        length = len(step.data) if step.claimed is None else step.claimed
        reth = RETH.pack(Reth(va=0, rkey=step.rkey, dlen=length))
        pieces = [step.data[i : i + MTU] for i in range(0, len(step.data), MTU)] or [b""]
        for index, piece in enumerate(pieces):
            first, last = index == 0, index == len(pieces) - 1
            opcode = {
                (True, True): Opcode.WRITE_ONLY,
                (True, False): Opcode.WRITE_FIRST,
                (False, True): Opcode.WRITE_LAST,
                (False, False): Opcode.WRITE_MIDDLE,
            }[first, last]
            self._request(step.direction, opcode, (reth if first else b"") + piece)
        self._acknowledge(step.direction)

    def wait(self, step: Wait) -> None:
        self.pcap.wait(step.seconds)

    def again(self, _: Again) -> None:
        self.generation += 1
        self.psn = list(PSNS)
        self.msn = [0, 0]

    def lose(self, step: Lose) -> None:
        self.psn[step.direction] += step.packets

    def _qp(self, end: int) -> int:
        return QPS[end] + GENERATION * self.generation

    def _request(self, direction: int, opcode: Opcode, body: bytes, *, solicited: bool = False) -> None:
        self._packet(direction, opcode, self._qp(1 - direction), self.psn[direction], body, solicited=solicited)
        self.psn[direction] += 1

    def _acknowledge(self, direction: int) -> None:
        """The peer's transport acknowledges the last request."""
        self.msn[direction] += 1
        aeth = AETH.pack(Aeth(syndrome=0x1F, msn=self.msn[direction]))
        self._packet(1 - direction, Opcode.ACKNOWLEDGE, self._qp(direction), self.psn[direction] - 1, aeth)

    def _packet(
        self, direction: int, opcode: Opcode, qpn: int, psn: int, body: bytes, *, solicited: bool = False
    ) -> None:
        pad = -len(body) % 4
        bth = BTH.pack(Bth(opcode=opcode, solicited=int(solicited), padcount=pad, dqpn=qpn, psn=psn & 0xFFFFFF))
        data = bth + body + bytes(pad) + bytes(4)
        udp = struct.pack(">HHHH", 0xC000, ROCE_UDP_PORT, 8 + len(data), 0)
        self.pcap.ip(ENDS[direction], ENDS[1 - direction], IP_UDP, udp + data)


def _mapped(address: str) -> bytes:
    return bytes(12) + IPv4Address(address).packed


def connect(generation: int = 0) -> list[Step]:
    """REQ, REP and RTU as mainline sends them; each further connection has queue pairs of its own."""
    more = GENERATION * generation
    active, passive = IPv4Address(ACTIVE).packed, IPv4Address(PASSIVE).packed
    request = CmReq(
        local_comm_id=0x100 + more,
        service_id=SERVICE_ID_TCP | IB_CM_PORT,
        local_qpn=QPS[0] + more,
        starting_psn=PSNS[1],
        retry_count=1,
        rnr_retry=7,
        path_mtu=3,
        responder_resources=128,
        initiator_depth=128,
    )
    reply = CmRep(
        local_comm_id=0x200 + more,
        remote_comm_id=0x100 + more,
        local_qpn=QPS[1] + more,
        starting_psn=PSNS[0],
        rnr_retry=7,
    )
    ip = IpCm(sport=40000, saddr=_mapped(ACTIVE), daddr=_mapped(PASSIVE))
    return [
        Cm(0, request, Attribute.REQ, ip, RdsPrivateV4(saddr=active, daddr=passive), label="req"),
        Cm(1, reply, Attribute.REP, None, RdsPrivateV4(saddr=passive, daddr=active), label="rep"),
        Cm(0, CmRtu(local_comm_id=0x100 + more, remote_comm_id=0x200 + more), Attribute.RTU, label="rtu"),
    ]


class Side:
    """Numbers what one end sends."""

    def __init__(self, direction: int) -> None:
        self.direction = direction
        self.next = 1

    def data(self, label: str, size: int, *, ack: int, flags: int = 0, **fields: Any) -> Send:
        """The next message."""
        head = header(self.next, size, 4001 + self.direction, 4002 - self.direction, ack=ack, flags=flags, **fields)
        self.next += 1
        return Send(self.direction, head, text(size, self.next), label)

    def ack_only(self, label: str, ack: int) -> Send:
        """A frame that only acknowledges."""
        return Send(self.direction, header(0, 0, 0, 0, ack=ack), b"", label)


def conversation() -> Script:
    """A faultless conversation: set-up, messages of one and several fragments, RDMA, acknowledgements."""
    a, b = Side(0), Side(1)
    work = (Rdma(RKEY), RdmaBytes(512, RdmaDirection.WRITE))
    steps: list[Step] = [
        *connect(),
        a.data("a1", 100, ack=0, flags=ACK),
        b.ack_only("b.ack", 1),
        b.data("b1", 64, ack=1, flags=ACK),
        a.ack_only("a.ack", 1),
        a.data("a2", 10_000, ack=1),
        b.data("b2", 12, ack=2, extensions=(RdmaDest(RKEY, 0),)),
        Write(0, RKEY, text(512), "write"),
        a.data("a3", 16, ack=2, flags=EXTENDED, extensions=work),
        b.data("b3", 5000, ack=3),
        a.data("a4", 0, ack=3),
        Wait(3.0),
        a.data("a5", 200, ack=3),
        b.data("b4", 20, ack=5),
    ]
    return Script(steps)


def reconnect() -> Script:
    """The last message is not acknowledged, the connection is made again, and it is sent again."""
    script = conversation()
    script.drop("b4")
    a, b = Side(0), Side(1)
    a.next, b.next = 5, 4
    again = a.data("a5.again", 200, ack=3, flags=ACK | FLAGGED)
    again.payload = script["a5"].payload
    script.steps += [Again(), *connect(1), again, b.ack_only("b.ack2", 5), a.data("a6", 30, ack=3)]
    return script
