"""Ten messages that differ in all that a filter or a line of output can look at."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import numpy as np

from dissectors.wire.cm import CmReq, IpCm, RdsPrivateV4
from dissectors.wire.congestion import bitmap_of
from dissectors.wire.extensions import GenNum, NPaths, Rdma, RdmaBytes, RdmaDest, SportIdx, build_extensions
from dissectors.wire.rds import RDS_HEADER, Flags, RdsHeader
from rdstool.capture.columns import MESSAGE, RDS_DTYPE, ChecksumStatus, MessageBatch
from rdstool.capture.events import CmMessage, Event, RdmaKind, RdmaOperation
from rdstool.capture.streams import Endpoint, StreamTable
from rdstool.protocol.kinds import Transport, classify

START_NS = 1_700_000_000_000_000_000
PAYLOAD = b"Hello world\x00\x01\x02" + bytes(1986)
HANDSHAKE = build_extensions([NPaths(8), GenNum(0x3FCA604D), SportIdx(0)])


def address(text: str) -> bytes:
    """16 bytes."""
    parsed = ipaddress.ip_address(text)
    return (bytes(10) + b"\xff\xff" if parsed.version == 4 else b"") + parsed.packed


def streams() -> StreamTable:
    """Stream 0: TCP over IPv4; stream 1: InfiniBand over IPv6."""
    table = StreamTable()
    table.began = START_NS
    table.add(
        Transport.TCP,
        Endpoint(address("10.0.0.1"), 32776),
        Endpoint(address("10.0.0.2"), 16385),
        initiator_known=True,
        first_frame=1,
        from_start=True,
    )
    table.add(
        Transport.IB,
        Endpoint(address("fe80::1"), 17),
        Endpoint(address("fe80::2"), 18),
        initiator_known=True,
        first_frame=5,
        from_start=True,
    )
    return table


def make_batch(items: Sequence[tuple[RdsHeader, dict[str, Any]]], payloads: dict[int, bytes]) -> MessageBatch:
    """A batch with these headers; each comes with values of other columns."""
    rows = np.zeros(len(items), MESSAGE)
    for index, (header, columns) in enumerate(items):
        row = rows[index]
        transport = Transport.IB if columns.get("stream") else Transport.TCP
        values = {
            "number": index + 1,
            "frame": 10 + index,
            "first_frame": 10 + index,
            "time": START_NS + index * 1_500_000,
            "transport": transport,
            "kind": classify(header, transport),
            "path": -1,
            "fragments": 1,
            "seen": header.length,
            "complete": True,
            "position": index * 48,
        }
        for name, value in {**values, **columns}.items():
            row[name] = value
        rows["header"][index] = np.frombuffer(RDS_HEADER.pack(header), RDS_DTYPE)[0]
    return MessageBatch(rows, payloads)


def batch() -> MessageBatch:
    """Messages 1 to 10."""
    good = {"stream": 1, "checksum_status": ChecksumStatus.GOOD}
    read_reply = build_extensions([Rdma(0x300), RdmaBytes(16384, 2)])
    items: list[tuple[RdsHeader, dict[str, Any]]] = [
        (RdsHeader(sequence=1, sport=1, dport=0, exthdr=HANDSHAKE), {"path": 0}),
        (RdsHeader(sequence=1, sport=0, dport=1, exthdr=HANDSHAKE), {"path": 0, "direction": 1}),
        (RdsHeader(length=8192, flags=Flags.CONG_BITMAP), {"path": 0}),
        (RdsHeader(sequence=2, length=2000, sport=4001, dport=4002), {"path": 2}),
        (RdsHeader(sequence=2, length=2000, sport=4001, dport=4002, flags=Flags.RETRANSMITTED), {"path": 2}),
        (RdsHeader(sequence=3, sport=4001, dport=0), {"path": 2}),
        (RdsHeader(sequence=4, sport=0, dport=4001), {"path": 2, "direction": 1}),
        (
            RdsHeader(7, 5, 5000, 5001, 5002, 0x22, 0, bytes(4), 0x7052, read_reply),
            {**good, "fragments": 2},
        ),
        (RdsHeader(ack=7, credit=16, checksum=0x1234), {"stream": 1, "direction": 1, "checksum_status": 2}),
        (
            RdsHeader(8, 5, 4096, 5001, 5002, 0, 0, bytes(4), 0x1111, build_extensions([RdmaDest(0x400, 16)])),
            {**good, "seen": 1200, "complete": False, "inferred": True},
        ),
    ]
    return make_batch(items, {2: bitmap_of([4000, 4001]), 3: PAYLOAD, 4: PAYLOAD})


def events() -> list[Event]:
    """A connection request and an RDMA read."""
    request = CmMessage(
        frame=5,
        time=START_NS - 1_000_000,
        stream=-1,
        src=address("10.1.0.1"),
        dst=address("10.1.0.2"),
        transaction_id=77,
        body=CmReq(local_qpn=17, retry_count=1),
        ip=IpCm(ip_version=4, saddr=bytes(12) + b"\x0a\x01\0\1", daddr=bytes(12) + b"\x0a\x01\0\2"),
        private=RdsPrivateV4(b"\x0a\x01\0\1", b"\x0a\x01\0\2"),
    )
    read = RdmaOperation(
        frame=16,
        time=START_NS + 9_200_000,
        stream=1,
        direction=1,
        kind=RdmaKind.READ,
        va=0x1000,
        rkey=0x300,
        length=16384,
        seen=16384,
        first_frame=15,
        psn=4,
    )
    return [request, read]
