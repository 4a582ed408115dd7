"""What a layer builds, it dissects to the same; and no bytes whatever make a layer raise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from dissectors import all as everything
from dissectors.all import (
    BTH,
    DETH,
    IPCM,
    LRH,
    MAD,
    RDS,
    RETH,
    CMReq,
    RDSCapBits,
    RDSCongestion,
    RDSCsum,
    RDSGenNum,
    RDSNPaths,
    RDSPrivate4,
    RDSRdma,
    RDSRdmaBytes,
    RDSRdmaDest,
    RDSSportIdx,
    RDSUnknown,
    RDSVersion,
)
from dissectors.wire.infiniband import Opcode
from dissectors.wire.rds import HEADER_BYTES

U8, U16, U32, U64 = (st.integers(0, 2**width - 1) for width in (8, 16, 32, 64))
EXTENSIONS = st.one_of(
    st.builds(RDSVersion, version=U32),
    st.builds(RDSRdma, rkey=U32),
    st.builds(RDSRdmaDest, rkey=U32, offset=U32),
    st.builds(RDSRdmaBytes, length=U32, direction_=U8),
    st.builds(RDSNPaths, npaths=U16),
    st.builds(RDSGenNum, gen_num=U32),
    st.builds(RDSCapBits, cap_bits=U32),
    st.builds(RDSSportIdx, sport_idx=U8),
    st.builds(RDSCsum, checksum=U32, enabled=U8),
    st.builds(RDSUnknown, type=st.integers(10, 15)),
)
EXTENSION_LISTS = st.lists(EXTENSIONS, max_size=5).filter(lambda items: sum(len(bytes(item)) for item in items) <= 16)
MESSAGES = st.builds(
    RDS,
    sequence=U64,
    ack=U64,
    sport=U16,
    dport=U16,
    flags=U8.filter(lambda flags: flags != 1),
    credit=U8,
    checksum=U16,
    exthdr=EXTENSION_LISTS,
)
LAYERS: list[Any] = [getattr(everything, name) for name in everything.__all__]


def rebuilt(packet: Packet) -> Packet:
    """The packet with nothing kept of the bytes that it came from."""
    copy = packet.copy()
    copy.clear_cache()
    return copy


def round_trip(packet: Packet) -> Packet:
    """Build, dissect, build again: the bytes and the fields are the same both times. Returns what was dissected."""
    data = bytes(packet)
    found: Packet = type(packet)(data)
    assert bytes(rebuilt(found)) == data
    assert type(packet)(bytes(rebuilt(found))) == found
    for name, value in packet.fields.items():
        assert found.getfieldval(name) == value
    return found


@given(message=MESSAGES, payload=st.binary(max_size=60))
def test_any_message_survives_a_round_trip(message: RDS, payload: bytes) -> None:
    found = round_trip(message / payload)
    assert bytes(found.payload) == payload
    assert found.length == len(payload)


@given(data=st.binary(min_size=16, max_size=16))
def test_any_sixteen_bytes_of_extensions_survive_a_round_trip(data: bytes) -> None:
    assert bytes(rebuilt(RDS(bytes(32) + data)))[32:] == data


@given(ports=st.lists(U16, max_size=100, unique=True))
def test_any_congestion_bitmap_survives_a_round_trip(ports: list[int]) -> None:
    assert round_trip(RDSCongestion(ports=ports)).ports == sorted(ports)


@given(messages=st.lists(st.tuples(st.integers(1, 2**64 - 1), U16, st.binary(max_size=50)), min_size=1, max_size=8))
def test_any_messages_of_one_segment_survive_a_round_trip(messages: list[tuple[int, int, bytes]]) -> None:
    segment: Packet = TCP(dport=16385)
    for sequence, port, payload in messages:
        segment = segment / RDS(sequence=sequence, sport=port, dport=port)
        segment = segment / payload if payload else segment
    found = TCP(bytes(segment))
    layers = [found.getlayer(RDS, number) for number in range(1, len(messages) + 1)]
    assert [(layer.sequence, layer.sport, layer.length) for layer in layers] == [
        (sequence, port, len(payload)) for sequence, port, payload in messages
    ]
    assert bytes(rebuilt(found)) == bytes(segment)


@given(message=MESSAGES, payload=st.binary(max_size=60), qp=st.integers(2, 2**24 - 1), native=st.booleans())
def test_any_message_over_infiniband_survives_a_round_trip(message: RDS, payload: bytes, qp: int, native: bool) -> None:
    del message.checksum
    network = LRH() if native else IP() / UDP()
    found = round_trip(network / BTH(dqpn=qp) / message / payload)
    assert found[BTH].dqpn == qp
    assert RDS in found
    assert bytes(found[RDS].payload) == payload


@given(va=U64, rkey=U32, dlen=U32)
def test_any_rdma_read_survives_a_round_trip(va: int, rkey: int, dlen: int) -> None:
    found = round_trip(IP() / UDP() / BTH(opcode=Opcode.READ_REQUEST) / RETH(va=va, rkey=rkey, dlen=dlen))
    assert (found[RETH].va, found[RETH].rkey, found[RETH].dlen) == (va, rkey, dlen)


@given(ack=U64, credit=U32, tos=U8, qpn=st.integers(0, 2**24 - 1))
def test_any_connect_request_survives_a_round_trip(ack: int, credit: int, tos: int, qpn: int) -> None:
    private = IPCM() / RDSPrivate4(saddr="10.0.0.1", daddr="10.0.0.2", ack_seq=ack, credit=credit, tos=tos)
    request = CMReq(service_id=0x10648CA, local_qpn=qpn, private=private)
    found = round_trip(IP() / UDP() / BTH() / DETH() / MAD() / request)
    held = found[CMReq].private[RDSPrivate4]
    assert (held.ack_seq, held.credit, held.tos, found[CMReq].local_qpn) == (ack, credit, tos, qpn)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_every_layer_survives_a_round_trip_as_it_is_made(layer: type[Packet]) -> None:
    if bytes(layer()):
        round_trip(layer())


@pytest.mark.parametrize(
    "layer", [cls for cls in LAYERS if not cls.__name__.startswith("RDS") or cls is RDS], ids=lambda cls: cls.__name__
)
@given(data=st.binary(max_size=400))
def test_random_bytes_never_raise(layer: type[Packet], data: bytes) -> None:
    found = layer(data)
    found.summary()
    found.show(dump=True)
    assert type(found) in (layer, Raw)


@given(data=st.binary(max_size=300), zeros=st.integers(0, HEADER_BYTES))
def test_random_segments_never_raise(data: bytes, zeros: int) -> None:
    stream = bytes(zeros) + data
    assert bytes(TCP(bytes(TCP(dport=16385) / Raw(stream))).payload) == stream
    assert RDS.tcp_reassemble(stream, {}, {}) is None or len(stream) >= HEADER_BYTES


@given(data=st.binary(min_size=16, max_size=300), opcode=st.sampled_from(list(Opcode)), qp=st.integers(0, 2))
def test_random_packets_of_the_transport_never_raise(data: bytes, opcode: Opcode, qp: int) -> None:
    packet = bytes((opcode,)) + data[1:5] + qp.to_bytes(3, "big") + data[8:] + bytes(16)
    found = BTH(packet)
    found.summary()
    assert bytes(rebuilt(found)) == packet
