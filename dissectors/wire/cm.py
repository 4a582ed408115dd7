"""RDMA-CM: the MADs that make and end connections, and what RDS puts in their private data.

Layouts: InfiniBand Architecture vol. 1, §13.4.3 (MAD), §12.6 (communication management) and Annex A11 (IP CM
header); RDS private data: protocol.md §7.1, kernel ``net/rds/rdma_transport.h`` and ``ib.h``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from dissectors.wire.codec import Codec
from dissectors.wire.table import Kind, bits, header, octets, u8, u16, u32, u64

_IBA = "InfiniBand Architecture vol. 1"
MAD_BYTES = 256
"""Every management datagram has this size (§13.4.2)."""
CM_CLASS = 0x07
"""Management class of communication management."""
SERVICE_ID_TCP = 0x0000_0000_0106_0000
"""Service ID of RDMA-CM's TCP port space, port 0; the low 16 bits hold the port."""
QKEY_GSI = 0x8001_0000
"""Q_Key of the general services interface."""


class Attribute(IntEnum):
    """Attribute identifiers of communication management messages."""

    REQ = 0x0010
    MRA = 0x0011
    REJ = 0x0012
    REP = 0x0013
    RTU = 0x0014
    DREQ = 0x0015
    DREP = 0x0016
    SIDR_REQ = 0x0017
    SIDR_REP = 0x0018
    LAP = 0x0019
    APR = 0x001A


class RejectReason(IntEnum):
    """Reasons of REJ that are met in practice (§12.6.7.2; kernel ``include/rdma/ib_cm.h``)."""

    NO_QP = 1
    NO_RESOURCES = 3
    TIMEOUT = 4
    UNSUPPORTED_REQUEST = 5
    INVALID_COMMUNICATION_ID = 6
    INVALID_SERVICE_ID = 8
    INVALID_TRANSPORT_SERVICE_TYPE = 9
    STALE_CONNECTION = 10
    INVALID_GID = 12
    PORT_CM_REDIRECT = 24
    PORT_REDIRECT = 25
    INVALID_MTU = 26
    INSUFFICIENT_RESPONDER_RESOURCES = 27
    CONSUMER = 28
    DUPLICATE_LOCAL_COMMUNICATION_ID = 30


@header("infiniband.mad", size=24, title="Management Datagram", source=f"{_IBA} §13.4.3")
@dataclass(slots=True)
class Mad:
    """Common header of management datagrams."""

    base_version: int = u8(0, "Base version, 1", default=1)
    mgmt_class: int = u8(1, "Management class", kind=Kind.HEX, default=CM_CLASS)
    class_version: int = u8(2, "Class version, 2", default=2)
    method: int = u8(3, "Method, 3 = send", kind=Kind.HEX, default=3)
    status: int = u16(4, "Status", kind=Kind.HEX)
    class_specific: int = u16(6, "Class specific", kind=Kind.HEX)
    transaction_id: int = u64(8, "Transaction", kind=Kind.HEX)
    attribute_id: int = u16(
        16, "Attribute: the kind of message", kind=Kind.HEX, values={item.value: item.name for item in Attribute}
    )
    reserved: int = u16(18, "Reserved")
    attribute_modifier: int = u32(20, "Attribute modifier", kind=Kind.HEX)


@header("infiniband.cm.req", size=232, title="CM ConnectRequest", source=f"{_IBA} §12.6.5")
@dataclass(slots=True)
class CmReq:
    """Asks for a connection."""

    local_comm_id: int = u32(0, "Sender's communication ID", kind=Kind.HEX)
    reserved: int = u32(4, "Reserved")
    service_id: int = u64(8, "Service asked for", kind=Kind.HEX)
    local_ca_guid: int = u64(16, "Sender's channel adapter", kind=Kind.HEX)
    reserved2: int = u32(24, "Reserved")
    local_qkey: int = u32(28, "Sender's Q_Key", kind=Kind.HEX)
    local_qpn: int = bits(32, 24, "Sender's queue pair", kind=Kind.HEX)
    responder_resources: int = u8(35, "RDMA READs and atomics that the sender can answer at once")
    local_eecn: int = bits(36, 24, "Sender's end-to-end context", kind=Kind.HEX)
    initiator_depth: int = u8(39, "RDMA READs and atomics that the sender wants in flight")
    remote_eecn: int = bits(40, 24, "Receiver's end-to-end context", kind=Kind.HEX)
    remote_cm_timeout: int = bits(43, 5, "Time for the receiver to answer: 4.096 us * 2^n")
    transport_service: int = bits(43, 2, "Transport service, 0 = reliable connection")
    flow_control: int = bits(43, 1, "End-to-end flow control")
    starting_psn: int = bits(44, 24, "Packet sequence number that the receiver is to begin with")
    local_cm_timeout: int = bits(47, 5, "Time for the sender to answer: 4.096 us * 2^n")
    retry_count: int = bits(47, 3, "Retries of the transport")
    pkey: int = u16(48, "Partition key", kind=Kind.HEX, default=0xFFFF)
    path_mtu: int = bits(50, 4, "Path MTU", values={1: "256", 2: "512", 3: "1024", 4: "2048", 5: "4096"})
    rdc_exists: int = bits(50, 1, "Reliable datagram channel exists")
    rnr_retry: int = bits(50, 3, "Retries after receiver-not-ready, 7 = no end")
    max_cm_retries: int = bits(51, 4, "Retries of CM messages")
    srq: int = bits(51, 1, "Shared receive queue")
    extended_transport: int = bits(51, 3, "Extended transport type")
    primary_local_lid: int = u16(52, "Sender's LID")
    primary_remote_lid: int = u16(54, "Receiver's LID")
    primary_local_gid: bytes = octets(56, 16, "Sender's GID", kind=Kind.IPV6)
    primary_remote_gid: bytes = octets(72, 16, "Receiver's GID", kind=Kind.IPV6)
    primary_flow_label: int = bits(88, 20, "Flow label")
    reserved3: int = bits(90, 6, "Reserved")
    primary_packet_rate: int = bits(91, 6, "Packet rate")
    primary_traffic_class: int = u8(92, "Traffic class")
    primary_hop_limit: int = u8(93, "Hop limit")
    primary_sl: int = bits(94, 4, "Service level")
    primary_subnet_local: int = bits(94, 1, "Both ends are in one subnet")
    reserved4: int = bits(94, 3, "Reserved")
    primary_ack_timeout: int = bits(95, 5, "Acknowledgement timeout: 4.096 us * 2^n")
    reserved5: int = bits(95, 3, "Reserved")
    alternate_local_lid: int = u16(96, "Sender's LID on the alternate path")
    alternate_remote_lid: int = u16(98, "Receiver's LID on the alternate path")
    alternate_local_gid: bytes = octets(100, 16, "Sender's GID on the alternate path", kind=Kind.IPV6)
    alternate_remote_gid: bytes = octets(116, 16, "Receiver's GID on the alternate path", kind=Kind.IPV6)
    alternate_flow_label: int = bits(132, 20, "Flow label of the alternate path")
    reserved6: int = bits(134, 6, "Reserved")
    alternate_packet_rate: int = bits(135, 6, "Packet rate of the alternate path")
    alternate_traffic_class: int = u8(136, "Traffic class of the alternate path")
    alternate_hop_limit: int = u8(137, "Hop limit of the alternate path")
    alternate_sl: int = bits(138, 4, "Service level of the alternate path")
    alternate_subnet_local: int = bits(138, 1, "Both ends are in one subnet on the alternate path")
    reserved7: int = bits(138, 3, "Reserved")
    alternate_ack_timeout: int = bits(139, 5, "Acknowledgement timeout of the alternate path")
    reserved8: int = bits(139, 3, "Reserved")
    private: bytes = octets(140, 92, "Private data")


@header("infiniband.cm.mra", size=232, title="CM MsgRcptAck", source=f"{_IBA} §12.6.6")
@dataclass(slots=True)
class CmMra:
    """Says that an answer will take longer."""

    local_comm_id: int = u32(0, "Sender's communication ID", kind=Kind.HEX)
    remote_comm_id: int = u32(4, "Receiver's communication ID", kind=Kind.HEX)
    message: int = bits(8, 2, "Message that is acknowledged", values={0: "REQ", 1: "REP", 2: "LAP"})
    reserved: int = bits(8, 6, "Reserved")
    service_timeout: int = bits(9, 5, "Time until the answer: 4.096 us * 2^n")
    reserved2: int = bits(9, 3, "Reserved")
    private: bytes = octets(10, 222, "Private data")


@header("infiniband.cm.rej", size=232, title="CM ConnectReject", source=f"{_IBA} §12.6.7")
@dataclass(slots=True)
class CmRej:
    """Refuses a connection."""

    local_comm_id: int = u32(0, "Sender's communication ID", kind=Kind.HEX)
    remote_comm_id: int = u32(4, "Receiver's communication ID", kind=Kind.HEX)
    message: int = bits(8, 2, "Message that is refused", values={0: "REQ", 1: "REP", 2: "none"})
    reserved: int = bits(8, 6, "Reserved")
    info_length: int = bits(9, 7, "Bytes of additional information")
    reserved2: int = bits(9, 1, "Reserved")
    reason: int = u16(10, "Reason", values={item.value: item.name for item in RejectReason})
    info: bytes = octets(12, 72, "Additional information")
    private: bytes = octets(84, 148, "Private data")


@header("infiniband.cm.rep", size=232, title="CM ConnectReply", source=f"{_IBA} §12.6.8")
@dataclass(slots=True)
class CmRep:
    """Accepts a connection."""

    local_comm_id: int = u32(0, "Sender's communication ID", kind=Kind.HEX)
    remote_comm_id: int = u32(4, "Receiver's communication ID", kind=Kind.HEX)
    local_qkey: int = u32(8, "Sender's Q_Key", kind=Kind.HEX)
    local_qpn: int = bits(12, 24, "Sender's queue pair", kind=Kind.HEX)
    reserved: int = u8(15, "Reserved")
    local_eecn: int = bits(16, 24, "Sender's end-to-end context", kind=Kind.HEX)
    reserved2: int = u8(19, "Reserved")
    starting_psn: int = bits(20, 24, "Packet sequence number that the receiver is to begin with")
    reserved3: int = u8(23, "Reserved")
    responder_resources: int = u8(24, "RDMA READs and atomics that the sender can answer at once")
    initiator_depth: int = u8(25, "RDMA READs and atomics that the sender wants in flight")
    target_ack_delay: int = bits(26, 5, "Delay of the sender's acknowledgements")
    failover_accepted: int = bits(26, 2, "Alternate path accepted")
    flow_control: int = bits(26, 1, "End-to-end flow control")
    rnr_retry: int = bits(27, 3, "Retries after receiver-not-ready, 7 = no end")
    srq: int = bits(27, 1, "Shared receive queue")
    reserved4: int = bits(27, 4, "Reserved")
    local_ca_guid: int = u64(28, "Sender's channel adapter", kind=Kind.HEX)
    private: bytes = octets(36, 196, "Private data")


@header("infiniband.cm.rtu", size=232, title="CM ReadyToUse", source=f"{_IBA} §12.6.9")
@dataclass(slots=True)
class CmRtu:
    """Confirms the reply."""

    local_comm_id: int = u32(0, "Sender's communication ID", kind=Kind.HEX)
    remote_comm_id: int = u32(4, "Receiver's communication ID", kind=Kind.HEX)
    private: bytes = octets(8, 224, "Private data")


@header("infiniband.cm.dreq", size=232, title="CM DisconnectRequest", source=f"{_IBA} §12.6.10")
@dataclass(slots=True)
class CmDreq:
    """Ends a connection."""

    local_comm_id: int = u32(0, "Sender's communication ID", kind=Kind.HEX)
    remote_comm_id: int = u32(4, "Receiver's communication ID", kind=Kind.HEX)
    remote_qpn: int = bits(8, 24, "Receiver's queue pair", kind=Kind.HEX)
    reserved: int = u8(11, "Reserved")
    private: bytes = octets(12, 220, "Private data")


@header("infiniband.cm.drep", size=232, title="CM DisconnectReply", source=f"{_IBA} §12.6.11")
@dataclass(slots=True)
class CmDrep:
    """Confirms the end."""

    local_comm_id: int = u32(0, "Sender's communication ID", kind=Kind.HEX)
    remote_comm_id: int = u32(4, "Receiver's communication ID", kind=Kind.HEX)
    private: bytes = octets(8, 224, "Private data")


@header("rds.cm.ip", size=36, title="RDMA-CM IP header", source=f"{_IBA} Annex A11; protocol.md §7.1")
@dataclass(slots=True)
class IpCm:
    """In front of a REQ's private data: the IP addresses that the connection stands for."""

    version: int = u8(0, "Version, 0", kind=Kind.HEX)
    ip_version: int = bits(1, 4, "IP version", default=4)
    reserved: int = bits(1, 4, "Reserved")
    sport: int = u16(2, "Source port")
    saddr: bytes = octets(4, 16, "Source address; IPv4 in the last four bytes", kind=Kind.IPV6)
    daddr: bytes = octets(20, 16, "Destination address; IPv4 in the last four bytes", kind=Kind.IPV6)


@header(
    "rds.cm",
    size=32,
    title="RDS private data (IPv4)",
    source="net/rds/ib.h struct rds_ib_connect_private; protocol.md §7.1",
)
@dataclass(slots=True)
class RdsPrivateV4:
    """What both ends tell each other when a connection over IPv4 addresses is made."""

    saddr: bytes = octets(0, 4, "Sender's RDS address", kind=Kind.IPV4)
    daddr: bytes = octets(4, 4, "Receiver's RDS address", kind=Kind.IPV4)
    major: int = u8(8, "Protocol version, major; 0 = not given", default=3)
    minor: int = u8(9, "Protocol version, minor", default=1)
    minor_mask: int = u16(10, "Minor versions supported with major 4, bit n = minor n", kind=Kind.HEX, default=0x0003)
    tos: int = u8(12, "Type of service of the connection")
    reserved: int = u8(13, "Reserved")
    fragment_size: int = u16(14, "Fragment size in bytes (UEK only); 0 from mainline")
    ack_seq: int = u64(16, "Last sequence received; 0 = none")
    credit: int = u32(24, "Initial receive credits; 0 = no flow control")
    tail: int = u32(28, "Padding of the structure")


@header(
    "rds.cm",
    size=56,
    title="RDS private data (IPv6)",
    source="net/rds/ib.h struct rds6_ib_connect_private; protocol.md §7.1",
)
@dataclass(slots=True)
class RdsPrivateV6:
    """The same for IPv6 addresses."""

    saddr: bytes = octets(0, 16, "Sender's RDS address", kind=Kind.IPV6)
    daddr: bytes = octets(16, 16, "Receiver's RDS address", kind=Kind.IPV6)
    major: int = u8(32, "Protocol version, major; 0 = not given", default=3)
    minor: int = u8(33, "Protocol version, minor", default=1)
    minor_mask: int = u16(34, "Minor versions supported with major 4, bit n = minor n", kind=Kind.HEX, default=0x0003)
    tos: int = u8(36, "Type of service of the connection")
    reserved: int = u8(37, "Reserved")
    fragment_size: int = u16(38, "Fragment size in bytes (UEK only); 0 from mainline")
    ack_seq: int = u64(40, "Last sequence received; 0 = none")
    credit: int = u32(48, "Initial receive credits; 0 = no flow control")
    tail: int = u32(52, "Padding of the structure")


@header("rds.cm", size=4, title="RDS reject data", source="net/rds/rdma_transport.c; protocol.md §7.2")
@dataclass(slots=True)
class RdsReject:
    """A number in the private data of a REJ, in the sender's own byte order; read here as big-endian."""

    code: int = u32(
        0, "1 = incompatible version or crossing requests; 0x04010020 = refused by access list (UEK)", kind=Kind.HEX
    )


def reject_code(data: bytes) -> int:
    """The number in a REJ's private data, whose byte order is the sender's own: the smaller reading is taken."""
    return min(int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big"))


MAD = Codec(Mad)
IP_CM = Codec(IpCm)
RDS_PRIVATE_V4 = Codec(RdsPrivateV4)
RDS_PRIVATE_V6 = Codec(RdsPrivateV6)
RDS_REJECT = Codec(RdsReject)
CM_MESSAGES: dict[
    int, Codec[CmReq] | Codec[CmMra] | Codec[CmRej] | Codec[CmRep] | Codec[CmRtu] | Codec[CmDreq] | Codec[CmDrep]
] = {
    Attribute.REQ: Codec(CmReq),
    Attribute.MRA: Codec(CmMra),
    Attribute.REJ: Codec(CmRej),
    Attribute.REP: Codec(CmRep),
    Attribute.RTU: Codec(CmRtu),
    Attribute.DREQ: Codec(CmDreq),
    Attribute.DREP: Codec(CmDrep),
}
