"""Hand-made InfiniBand packets: two hosts, queue pairs, and what they send."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.checksum import with_checksum
from dissectors.wire.cm import (
    CM_MESSAGES,
    IP_CM,
    MAD,
    RDS_PRIVATE_V4,
    RDS_PRIVATE_V6,
    SERVICE_ID_TCP,
    Attribute,
    CmDreq,
    CmRep,
    CmReq,
    IpCm,
    Mad,
    RdsPrivateV4,
    RdsPrivateV6,
)
from dissectors.wire.infiniband import AETH, BTH, DETH, RETH, Aeth, Bth, Deth, Opcode, Reth
from dissectors.wire.rds import FRAGMENT_BYTES, IB_CM_PORT, TCP_PORT, RdsHeader
from rdstool.capture.columns import IbPackets

V4 = bytes(10) + b"\xff\xff"
A, B = V4 + bytes((10, 0, 0, 1)), V4 + bytes((10, 0, 0, 2))
SECOND_NS = 1_000_000_000
MTU = 1024


@dataclass(slots=True)
class Captured:
    """A growing capture. Each packet is one frame, a millisecond after the one before."""

    data: bytearray = field(default_factory=bytearray)
    rows: list[tuple[int, int, bytes, bytes, int, int, int]] = field(default_factory=list)
    """Frame, time, source, destination, place of BTH, captured and length behind it."""
    now: int = SECOND_NS

    def packet(
        self,
        src: bytes,
        dst: bytes,
        opcode: int,
        qpn: int,
        psn: int,
        payload: bytes = b"",
        *,
        solicited: bool = False,
        snap: int | None = None,
    ) -> None:
        """One packet; ``snap`` is how many bytes behind BTH are captured."""
        pad = -len(payload) % 4
        bth = Bth(opcode=opcode, solicited=int(solicited), padcount=pad, dqpn=qpn, psn=psn & 0xFFFFFF)
        self.now += SECOND_NS // 1000
        whole = payload + bytes(pad)
        captured = len(whole) if snap is None else min(snap, len(whole))
        self.rows.append((len(self.rows) + 1, self.now, src, dst, len(self.data), captured, len(whole)))
        self.data += BTH.pack(bth) + whole[:captured]

    def packets(self, *, skip: tuple[int, ...] = ()) -> IbPackets:
        """The columns, without the frames ``skip``."""
        rows = [row for row in self.rows if row[0] not in skip]
        frame, time, bth, captured, length = (
            np.array([(row[0], row[1], *row[4:])[index] for row in rows], np.int64) for index in range(5)
        )
        return IbPackets(
            data=np.frombuffer(bytes(self.data), np.uint8),
            frame=frame,
            time=time,
            src_hi=_numbers([row[2][:8] for row in rows]),
            src_lo=_numbers([row[2][8:] for row in rows]),
            dst_hi=_numbers([row[3][:8] for row in rows]),
            dst_lo=_numbers([row[3][8:] for row in rows]),
            network=np.full(len(rows), -1),
            bth=bth,
            captured=captured,
            length=length,
        )


def _numbers(octets: list[bytes]) -> NDArray[np.uint64]:
    return np.array([int.from_bytes(item, "big") for item in octets], np.uint64)


@dataclass(slots=True)
class Sender:
    """One direction of a connection: what it sends goes to ``qpn`` of ``dst``."""

    capture: Captured
    src: bytes
    dst: bytes
    qpn: int
    psn: int = 100
    sequence: int = 1
    fragment: int = FRAGMENT_BYTES

    def packet(self, opcode: int, payload: bytes = b"", *, solicited: bool = False, numbers: int = 1) -> None:
        """The next packet; it takes ``numbers`` packet sequence numbers."""
        self.capture.packet(self.src, self.dst, opcode, self.qpn, self.psn, payload, solicited=solicited)
        self.psn += numbers

    def send(self, payload: bytes, *, solicited: bool = True) -> None:
        """One SEND, in as many packets as it needs."""
        pieces = [payload[at : at + MTU] for at in range(0, len(payload), MTU)] or [b""]
        if len(pieces) == 1:
            self.packet(Opcode.SEND_ONLY, payload, solicited=solicited)
            return
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            opcode = Opcode.SEND_LAST if last else Opcode.SEND_MIDDLE if index else Opcode.SEND_FIRST
            self.packet(opcode, piece, solicited=solicited and last)

    def frame(self, header: RdsHeader, data: bytes, *, last: bool = True) -> None:
        """One RDS frame."""
        self.send(with_checksum(header) + data, solicited=last)

    def header(self, length: int, ack: int = 0, exthdr: bytes = bytes(16), flags: int = 0) -> RdsHeader:
        """The next message's header."""
        self.sequence += 1
        return RdsHeader(
            sequence=self.sequence - 1, ack=ack, length=length, sport=4001, dport=4002, flags=flags, exthdr=exthdr
        )

    def message(self, payload: bytes, ack: int = 0, exthdr: bytes = bytes(16), flags: int = 0) -> RdsHeader:
        """A whole message."""
        header = self.header(len(payload), ack, exthdr, flags)
        pieces = [payload[at : at + self.fragment] for at in range(0, len(payload), self.fragment)] or [b""]
        for index, piece in enumerate(pieces):
            self.frame(header, piece, last=index == len(pieces) - 1)
        return header

    def write(self, va: int, rkey: int, data: bytes) -> None:
        """An RDMA WRITE."""
        reth = RETH.pack(Reth(va, rkey, len(data)))
        if len(data) <= MTU:
            self.packet(Opcode.WRITE_ONLY, reth + data)
            return
        for at in range(0, len(data), MTU):
            last = at + MTU >= len(data)
            opcode = Opcode.WRITE_LAST if last else Opcode.WRITE_MIDDLE if at else Opcode.WRITE_FIRST
            self.packet(opcode, (b"" if at else reth) + data[at : at + MTU])

    def read(self, va: int, rkey: int, length: int, mtu: int = MTU) -> int:
        """An RDMA READ; the number of its first response."""
        first = self.psn
        self.packet(Opcode.READ_REQUEST, RETH.pack(Reth(va, rkey, length)), numbers=max(1, -(-length // mtu)))
        return first

    def answer(self, psn: int, opcode: int = Opcode.ACKNOWLEDGE, syndrome: int = 0x1F, payload: bytes = b"") -> None:
        """A response to a request of the other side: it carries that side's number."""
        aeth = b"" if opcode == Opcode.READ_RESPONSE_MIDDLE else AETH.pack(Aeth(syndrome=syndrome))
        self.capture.packet(self.src, self.dst, opcode, self.qpn, psn, aeth + payload)


@dataclass(slots=True)
class Connection:
    """Queue pair 0x11 of A and 0x12 of B. ``a`` is what A sends."""

    capture: Captured = field(default_factory=Captured)
    qpns: tuple[int, int] = (0x11, 0x12)
    psns: tuple[int, int] = (100, 5000)
    service: int = IB_CM_PORT
    comm_ids: tuple[int, int] = (0xA1, 0xB1)
    a: Sender = field(init=False)
    b: Sender = field(init=False)

    def __post_init__(self) -> None:
        self.a = Sender(self.capture, A, B, self.qpns[1], self.psns[0])
        self.b = Sender(self.capture, B, A, self.qpns[0], self.psns[1])

    def manage(self, src: bytes, attribute: Attribute, body: object) -> None:
        """A message of RDMA-CM."""
        codec = CM_MESSAGES[attribute]
        mad = MAD.pack(Mad(attribute_id=attribute, transaction_id=77 + self.comm_ids[0]))
        payload = DETH.pack(Deth(sqpn=1)) + mad + codec.pack(body)  # type: ignore[arg-type]
        dst = B if src == A else A
        self.capture.packet(src, dst, Opcode.UD_SEND_ONLY, 1, 0, payload)

    def connect(self, a: bytes = A, b: bytes = B) -> Connection:
        """REQ and REP between the RDS addresses; A asks."""
        v6 = self.service == TCP_PORT
        ip = IpCm(ip_version=6, saddr=a, daddr=b) if v6 else IpCm(saddr=bytes(12) + a[12:], daddr=bytes(12) + b[12:])
        private = IP_CM.pack(ip) + _private(a, b, v6=v6)
        req = CmReq(
            local_comm_id=self.comm_ids[0],
            service_id=SERVICE_ID_TCP | self.service,
            local_qpn=self.qpns[0],
            starting_psn=self.psns[1],
            path_mtu=3,
            private=private.ljust(92, b"\0"),
        )
        self.manage(A, Attribute.REQ, req)
        rep = CmRep(
            local_comm_id=self.comm_ids[1],
            remote_comm_id=self.comm_ids[0],
            local_qpn=self.qpns[1],
            starting_psn=self.psns[0],
            private=_private(b, a, v6=v6).ljust(196, b"\0"),
        )
        self.manage(B, Attribute.REP, rep)
        return self

    def disconnect(self, src: bytes = A) -> None:
        """DREQ."""
        ids = self.comm_ids if src == A else self.comm_ids[::-1]
        self.manage(src, Attribute.DREQ, CmDreq(local_comm_id=ids[0], remote_comm_id=ids[1]))


def _private(source: bytes, target: bytes, *, v6: bool) -> bytes:
    if v6:
        return RDS_PRIVATE_V6.pack(RdsPrivateV6(saddr=source, daddr=target))
    return RDS_PRIVATE_V4.pack(RdsPrivateV4(saddr=source[12:], daddr=target[12:]))
