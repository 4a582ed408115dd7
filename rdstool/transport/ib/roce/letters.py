"""What is written into the messages of a dialogue (§12.6)."""

from __future__ import annotations

from dissectors.wire.cm import CmMra, CmRej, CmRep, CmReq, RejectReason
from rdstool.protocol.addresses import parsed
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.mads import filled
from rdstool.transport.ib.roce.numbers import MTU_CODES, gid_of

REQ_ROOM, REP_ROOM, REJ_ROOM, RTU_ROOM, DREQ_ROOM = 92, 196, 148, 224, 220
"""Bytes of private data."""
RESPONSE_TIME = 18
"""Time to wait for an answer, and that we take to give one: 4.096 us * 2^18 = 1.07 s."""
RETRIES = 15
"""Times that REQ, REP and DREQ are sent again; what Linux's RDMA-CM does (``CMA_MAX_CM_RETRIES``)."""
ABOUT_REQ, ABOUT_REP = 0, 1
"""Which message an MRA or REJ is about."""
_INFO_ROOM = 72
"""Bytes of additional information of REJ."""
_LID = 0xFFFF
"""RoCE has no LIDs: Linux puts the permissive one."""
_HOPS = 64
_TARGET_ACK_DELAY = 15


def guid_of(address: str) -> int:
    """A channel adapter's number for an IP address: the EUI-64 of a locally administered Ethernet address."""
    packed = parsed(address).packed
    return int.from_bytes(b"\x02\x00" + packed[-4:-3] + b"\xff\xfe" + packed[-3:])


def request(connection: RoceConnection, address: str, flow_label: int, private_data: bytes) -> CmReq:
    """REQ of a connection from ``address``."""
    options = connection.options
    return CmReq(
        local_comm_id=connection.local_id,
        service_id=connection.service_id,
        local_ca_guid=guid_of(address),
        local_qpn=connection.number,
        responder_resources=options.responder_resources,
        initiator_depth=options.initiator_depth,
        remote_cm_timeout=RESPONSE_TIME,
        local_cm_timeout=RESPONSE_TIME,
        starting_psn=connection.receive_psn,
        retry_count=options.retry_count,
        path_mtu=MTU_CODES[options.path_mtu],
        rnr_retry=options.rnr_retry,
        max_cm_retries=RETRIES,
        primary_local_lid=_LID,
        primary_remote_lid=_LID,
        primary_local_gid=gid_of(address),
        primary_remote_gid=gid_of(connection.peer),
        primary_flow_label=flow_label,
        primary_traffic_class=options.traffic_class,
        primary_hop_limit=_HOPS,
        primary_sl=options.service_level,
        primary_ack_timeout=options.ack_timeout,
        private=filled(private_data, REQ_ROOM),
    )


def reply(connection: RoceConnection, address: str, depth: int, rnr_retry: int, private_data: bytes) -> CmRep:
    """REP of a connection at ``address``, which has ``depth`` READs and atomics in flight at most."""
    return CmRep(
        local_comm_id=connection.local_id,
        remote_comm_id=connection.remote_id,
        local_qpn=connection.number,
        starting_psn=connection.receive_psn,
        responder_resources=connection.options.responder_resources,
        initiator_depth=depth,
        target_ack_delay=_TARGET_ACK_DELAY,
        rnr_retry=rnr_retry,
        local_ca_guid=guid_of(address),
        private=private_data,
    )


def refusal(
    connection: RoceConnection, address: str, reason: RejectReason, about: int, private_data: bytes = bytes(REJ_ROOM)
) -> CmRej:
    """REJ; with the reason TIMEOUT, by which no communication ID may be known, it tells who we are."""
    info = guid_of(address).to_bytes(8) if reason is RejectReason.TIMEOUT else b""
    return CmRej(
        local_comm_id=connection.local_id,
        remote_comm_id=connection.remote_id,
        message=about,
        info_length=len(info),
        reason=reason,
        info=filled(info, _INFO_ROOM),
        private=private_data,
    )


def patience(connection: RoceConnection) -> CmMra:
    """MRA: the answer to REQ takes longer."""
    return CmMra(
        local_comm_id=connection.local_id,
        remote_comm_id=connection.remote_id,
        message=ABOUT_REQ,
        service_timeout=RESPONSE_TIME + 2,
    )
