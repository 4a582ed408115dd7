"""Scapy layers for RDMA-CM: the MADs that make and end connections, with RDS's private data decoded.

Behind a BTH and DETH to queue pair 1. A REQ is RDS's where its service ID says so; a REP names no service, so its
private data is taken as RDS's where all of it agrees with that (protocol.md §7.1).
"""

from __future__ import annotations

from typing import Any

from scapy.fields import PacketLenField
from scapy.packet import Packet, Raw, bind_layers, bind_top_down

from dissectors.infiniband import BTH, DETH, UD, payload_guesses
from dissectors.layers import AnyField, WireLayer, fields_of
from dissectors.wire.cm import (
    CM_CLASS,
    QKEY_GSI,
    RDS_PRIVATE_V4,
    RDS_PRIVATE_V6,
    SERVICE_ID_TCP,
    Attribute,
    CmDrep,
    CmDreq,
    CmMra,
    CmRej,
    CmRep,
    CmReq,
    CmRtu,
    IpCm,
    Mad,
    RdsPrivateV4,
    RdsPrivateV6,
    RdsReject,
    RejectReason,
    reject_code,
)
from dissectors.wire.errors import CodecError
from dissectors.wire.infiniband import CM_QP
from dissectors.wire.rds import IB_CM_PORT, TCP_PORT
from dissectors.wire.table import table_of

RDS_SERVICE_IDS = frozenset({SERVICE_ID_TCP | IB_CM_PORT, SERVICE_ID_TCP | TCP_PORT})
"""Service IDs of RDS: port 18634 for IPv4 addresses, 16385 for IPv6 (protocol.md §7.1)."""


def _private_class(pkt: Packet | None, data: bytes) -> type[Packet]:
    """What the private data of a CM message is."""
    if isinstance(pkt, CMReq):
        return IPCM if pkt.service_id >> 16 == SERVICE_ID_TCP >> 16 else Raw
    if isinstance(pkt, CMRep):
        return _rds_reply(data)
    if isinstance(pkt, CMRej) and pkt.reason == RejectReason.CONSUMER and any(data[:4]) and not any(data[4:]):
        return RDSReject
    return Raw


def _rds_reply(data: bytes) -> type[Packet]:
    """The form of RDS's private data that ``data`` holds, ``Raw`` where it holds none."""
    forms: list[tuple[Any, type[Packet]]] = [(RDS_PRIVATE_V4, RDSPrivate4), (RDS_PRIVATE_V6, RDSPrivate6)]
    for codec, layer in forms:
        held = codec.unpack_from(data)
        known = (held.major, held.minor) == (3, 1) or (held.major == 4 and held.minor_mask != 0)
        if known and any(held.saddr) and any(held.daddr) and not held.reserved and not held.tail:
            return layer
    return Raw


class _PrivateField(PacketLenField):
    """Private data: layers in a field of fixed size, filled up with zeros that are not shown."""

    __slots__ = ("size",)  # Scapy's fields have no __dict__

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, Raw(b""), Raw, length_from=lambda pkt: size)
        self.size = size

    def any2i(self, pkt: Packet | None, x: Any) -> Any:
        """Accept bytes in the place of a layer."""
        return super().any2i(pkt, Raw(x) if isinstance(x, bytes) else x)

    def m2i(self, pkt: Packet | None, m: bytes) -> Any:
        """Dissect the data by what the message around it says."""
        kind = _private_class(pkt, m)
        return Raw(m.rstrip(b"\0")) if kind is Raw else kind(m, _internal=1, _parent=pkt)

    def addfield(self, pkt: Packet, s: bytes, val: Any) -> bytes:
        """Append the data, filled up. Raises ``CodecError`` where it does not fit."""
        data = bytes(val) if val is not None else b""
        if len(data) > self.size:
            raise CodecError(f"{pkt.name} takes {self.size} bytes of private data, got {len(data)}")
        return s + data.ljust(self.size, b"\0")


def _cm_fields(header: type[Any]) -> list[AnyField]:
    size = table_of(header)["private"].size
    return fields_of(header, replace={"private": lambda name: _PrivateField(name, size)})


class MAD(WireLayer):
    """Management Datagram. ``attribute_id`` follows from the layer above."""

    name = "MAD"
    wire = Mad
    fields_desc = fields_of(Mad)


class _CmMessage(WireLayer):
    """A message of communication management: 232 bytes, private data included."""

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """Nothing follows."""
        return b"", s


class CMReq(_CmMessage):
    """ConnectRequest; ``private`` holds an :class:`IPCM` where the service is one of RDMA-CM's TCP port space."""

    name = "CM ConnectRequest"
    wire = CmReq
    fields_desc = _cm_fields(CmReq)

    def mysummary(self) -> str:
        """Service and queue pair."""
        who = "RDS" if self.service_id in RDS_SERVICE_IDS else f"service {self.service_id:#x}"
        return f"CM ConnectRequest for {who} from queue pair {self.local_qpn:#x}"


class CMMra(_CmMessage):
    """MsgRcptAck."""

    name = "CM MsgRcptAck"
    wire = CmMra
    fields_desc = _cm_fields(CmMra)


class CMRej(_CmMessage):
    """ConnectReject; ``private`` holds an :class:`RDSReject` where the consumer gave a number."""

    name = "CM ConnectReject"
    wire = CmRej
    fields_desc = _cm_fields(CmRej)

    def mysummary(self) -> str:
        """The reason of the rejection."""
        known = {item.value: item.name.lower().replace("_", " ") for item in RejectReason}
        return f"CM ConnectReject: {known.get(self.reason, f'reason {self.reason}')}"


class CMRep(_CmMessage):
    """ConnectReply."""

    name = "CM ConnectReply"
    wire = CmRep
    fields_desc = _cm_fields(CmRep)

    def mysummary(self) -> str:
        """The queue pair that accepts."""
        return f"CM ConnectReply from queue pair {self.local_qpn:#x}"


class CMRtu(_CmMessage):
    """ReadyToUse."""

    name = "CM ReadyToUse"
    wire = CmRtu
    fields_desc = _cm_fields(CmRtu)


class CMDreq(_CmMessage):
    """DisconnectRequest."""

    name = "CM DisconnectRequest"
    wire = CmDreq
    fields_desc = _cm_fields(CmDreq)


class CMDrep(_CmMessage):
    """DisconnectReply."""

    name = "CM DisconnectReply"
    wire = CmDrep
    fields_desc = _cm_fields(CmDrep)


CM_LAYERS: dict[Attribute, type[_CmMessage]] = {
    Attribute.REQ: CMReq,
    Attribute.MRA: CMMra,
    Attribute.REJ: CMRej,
    Attribute.REP: CMRep,
    Attribute.RTU: CMRtu,
    Attribute.DREQ: CMDreq,
    Attribute.DREP: CMDrep,
}
"""The layer of each message."""


class _Filled(WireLayer):
    """A structure in private data: zeros behind it are filling, not payload."""

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """Drop what only fills."""
        return (s if any(s) else b""), None


class IPCM(_Filled):
    """RDMA-CM's IP header in front of a REQ's private data."""

    name = "RDMA-CM IP header"
    wire = IpCm
    fields_desc = fields_of(IpCm)

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """RDS's private data, where the REQ around it asks for RDS and the data is long enough."""
        if isinstance(self.parent, CMReq) and self.parent.service_id not in RDS_SERVICE_IDS:
            return Raw
        return {4: RDSPrivate4, 6: RDSPrivate6}.get(self.ip_version, Raw)


class _RdsPrivate(_Filled):
    def mysummary(self) -> str:
        """The version and the addresses."""
        return f"RDS {self.major}.{self.minor} {self.saddr} > {self.daddr}"


class RDSPrivate4(_RdsPrivate):
    """RDS's private data for IPv4 addresses."""

    name = "RDS private data (IPv4)"
    wire = RdsPrivateV4
    fields_desc = fields_of(RdsPrivateV4)


class RDSPrivate6(_RdsPrivate):
    """RDS's private data for IPv6 addresses."""

    name = "RDS private data (IPv6)"
    wire = RdsPrivateV6
    fields_desc = fields_of(RdsPrivateV6)


class RDSReject(_Filled):
    """RDS's number in a REJ, in the sender's own byte order."""

    name = "RDS reject data"
    wire = RdsReject
    fields_desc = fields_of(RdsReject)

    def mysummary(self) -> str:
        """The number, whichever its byte order."""
        return f"RDS reject code {reject_code(bytes(self)):#x}"


def _mad_behind_deth(bth: BTH, payload: bytes) -> type[Packet] | None:
    """MADs travel to queue pair 1, in datagrams."""
    return MAD if bth.dqpn == CM_QP and bth.opcode >> 5 == UD else None


payload_guesses.append(_mad_behind_deth)
bind_top_down(DETH, MAD, qkey=QKEY_GSI, sqpn=CM_QP)
for _attribute, _layer in CM_LAYERS.items():
    bind_layers(MAD, _layer, mgmt_class=CM_CLASS, attribute_id=int(_attribute))
bind_top_down(IPCM, RDSPrivate4, ip_version=4)
bind_top_down(IPCM, RDSPrivate6, ip_version=6)
