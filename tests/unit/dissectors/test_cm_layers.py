"""RDMA-CM in Scapy: the messages of real kernels, and RDS's private data in them."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Packet, Raw
from scapy.utils import PcapReader

from dissectors.all import (
    BTH,
    DETH,
    IPCM,
    MAD,
    CMDrep,
    CMDreq,
    CMMra,
    CMRej,
    CMRep,
    CMReq,
    CMRtu,
    RDSPrivate4,
    RDSPrivate6,
    RDSReject,
)
from dissectors.cm import CM_LAYERS, RDS_SERVICE_IDS
from dissectors.wire.cm import QKEY_GSI, RejectReason
from dissectors.wire.errors import CodecError
from dissectors.wire.icrc import icrc_good

OpenCapture = Callable[[str], io.BytesIO]
V4 = RDSPrivate4(saddr="10.1.0.1", daddr="10.1.0.2")
V6 = RDSPrivate6(saddr="fd00::1", daddr="fd00::2")


def datagram(message: Packet) -> Packet:
    found: Packet = IP(bytes(IP() / UDP() / BTH() / DETH() / MAD() / message))
    return found


def handshake(capture: OpenCapture, name: str) -> list[Packet]:
    """The CM messages at the start of a capture."""
    found = []
    with PcapReader(capture(name)) as frames:
        for _ in range(300):
            frame = frames.read_packet()
            if MAD in frame:
                found.append(frame)
    return found


@pytest.mark.parametrize("name", ["ib-basic-61", "ib-basic-73", "ib-rdma-61", "ib-rdma-73"])
def test_real_kernels_make_rds_connections(capture: OpenCapture, name: str) -> None:
    frames = handshake(capture, name)
    request = next(frame[CMReq] for frame in frames if CMReq in frame)
    assert request.service_id == 0x10648CA
    assert (request.retry_count, request.rnr_retry, request.transport_service) == (1, 7, 0)
    offered = request.private[RDSPrivate4]
    assert (offered.major, offered.minor, offered.minor_mask, offered.ack_seq, offered.credit) == (3, 1, 3, 0, 0)
    network = request.private[IPCM]
    assert (network.saddr, network.daddr) == (f"::{offered.saddr}", f"::{offered.daddr}")
    reply = next(frame[CMRep] for frame in frames if CMRep in frame)
    assert reply.private[RDSPrivate4].major == 3
    assert any(CMRtu in frame for frame in frames)


def test_crossing_requests_of_real_kernels_reject_each_other(capture: OpenCapture) -> None:
    rejects = [frame[CMRej] for frame in handshake(capture, "ib-basic-61") if CMRej in frame]
    assert rejects
    assert {reject.reason for reject in rejects} <= set(RejectReason)


@pytest.mark.parametrize("layer", CM_LAYERS.values(), ids=lambda layer: layer.__name__)
def test_every_message_is_256_bytes_on_queue_pair_1(layer: type[Packet]) -> None:
    found = datagram(layer())
    assert layer in found
    assert len(bytes(found[MAD])) == 256
    assert (found[BTH].dqpn, found[BTH].opcode, found[DETH].qkey, found[DETH].sqpn) == (1, 0x64, QKEY_GSI, 1)
    assert icrc_good(bytes(found))


@pytest.mark.parametrize(("service", "private"), [(0x10648CA, IPCM() / V4), (0x1064001, IPCM() / V6)])
def test_a_request_for_rds_holds_its_private_data(service: int, private: Packet) -> None:
    assert service in RDS_SERVICE_IDS
    found = datagram(CMReq(service_id=service, private=private))[CMReq].private
    assert found == IPCM(bytes(private))
    assert found[type(private.payload)].major == 3


def test_the_private_data_for_ipv4_is_that_of_the_kernels() -> None:
    assert bytes(V4) == bytes.fromhex("0a010001 0a010002 03 01 0003 00 00 0000") + bytes(16)
    assert len(IPCM() / V6) == 92


def test_a_request_for_another_service_is_not_rds() -> None:
    found = datagram(CMReq(service_id=0x106_0BC0, private=IPCM() / V4))[CMReq].private
    assert type(found) is IPCM
    assert type(found.payload) is Raw
    assert type(datagram(CMReq(service_id=1, private=b"hello"))[CMReq].private) is Raw


@pytest.mark.parametrize("private", [V4, V6])
def test_a_reply_is_known_by_its_content(private: Packet) -> None:
    assert datagram(CMRep(private=private))[CMRep].private == type(private)(bytes(private))


def test_a_reply_that_is_not_rds_stays_raw() -> None:
    assert datagram(CMRep(private=b"\x01" * 40))[CMRep].private.load == b"\x01" * 40


@pytest.mark.parametrize("data", [b"\x01\0\0\0", b"\0\0\0\x01"], ids=["little-endian", "big-endian"])
def test_a_reject_code_is_read_in_either_byte_order(data: bytes) -> None:
    reject = datagram(CMRej(reason="CONSUMER", private=data))[CMRej]
    assert type(reject.private) is RDSReject
    assert reject.private.summary() == "RDS reject code 0x1"
    assert reject.summary() == "CM ConnectReject: consumer"


def test_private_data_that_is_too_long_is_refused() -> None:
    with pytest.raises(CodecError, match="92 bytes"):
        bytes(CMReq(private=bytes(93)))


def test_data_behind_the_private_structure_is_kept() -> None:
    request = CMReq(service_id=0x10648CA, private=IPCM() / V4 / b"\0tail")
    found = datagram(request)[CMReq]
    assert found.private[Raw].load.rstrip(b"\0") == b"\0tail"
    found.clear_cache()
    assert bytes(found)[:232] == bytes(request)


@pytest.mark.parametrize("layer", [CMMra, CMDreq, CMDrep])
def test_other_messages_show_their_name(layer: type[Packet]) -> None:
    assert layer().summary().startswith(layer.__name__)


def test_summaries_name_service_queue_pair_reason_and_addresses() -> None:
    assert CMReq(service_id=0x10648CA, local_qpn=17).summary() == "CM ConnectRequest for RDS from queue pair 0x11"
    assert CMRep(local_qpn=17).summary() == "CM ConnectReply from queue pair 0x11"
    assert CMRej(reason=99).summary() == "CM ConnectReject: reason 99"
    assert V4.summary() == "RDS 3.1 10.1.0.1 > 10.1.0.2"
