"""The RDS layer in Scapy: crafting, known bytes of real kernels, several messages in a segment, TCPSession."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Padding, Raw
from scapy.plist import PacketList
from scapy.sendrecv import sniff
from scapy.sessions import TCPSession

from dissectors.all import (
    BTH,
    RDS,
    RDSCongestion,
    RDSGenNum,
    RDSNPaths,
    RDSRdma,
    RDSRdmaBytes,
    RDSRdmaDest,
    RDSSportIdx,
    RDSUnknown,
    RDSUnread,
)
from dissectors.rds import MESSAGES_IN_A_ROW, likely_header
from dissectors.wire.errors import CodecError
from dissectors.wire.rds import RDS_HEADER
from rdstool.protocol.kinds import MessageKind, Transport, classify

HANDSHAKE = [RDSNPaths(npaths=8), RDSGenNum(gen_num=0x3FCA604D), RDSSportIdx()]


def tcp(*messages: Packet | bytes, seq: int = 1) -> IP:
    data = b"".join(bytes(message) for message in messages)
    return IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=40000, dport=16385, flags="A", seq=seq) / Raw(data)


def test_the_checksum_is_that_of_a_kernel_6_1() -> None:
    assert RDS(sequence=1, sport=36268, dport=0, flags="ack_required").computed_checksum == 0x7052


@pytest.mark.parametrize(
    ("extensions", "hexadecimal"),
    [
        pytest.param([RDSNPaths(npaths=8)], "050008", id="handshake of 6.1"),
        pytest.param(HANDSHAKE, "050008 063fca604d 0800", id="handshake of 7.3"),
        pytest.param(
            [RDSRdma(rkey=0x300), RDSRdmaBytes(length=0x4000, direction_="read")],
            "0200000300 040000400002000000",
            id="RDMA reply of 7.3",
        ),
        pytest.param([RDSRdma(rkey=0x300)], "0200000300", id="RDMA reply of 6.12"),
        pytest.param([RDSRdmaDest(rkey=0x300, offset=0)], "030000030000000000", id="RDMA request"),
        pytest.param([RDSUnknown(type=12), RDSNPaths(npaths=4)], "0c050004", id="unknown type, no payload"),
        pytest.param([RDSNPaths(npaths=8), RDSUnread(load=b"\0\0\x07")], "050008000007", id="after the terminator"),
        pytest.param([RDSUnread(load=b"\x10\x05\x00\x08")], "10050008", id="type out of range"),
        pytest.param(
            [RDSGenNum(gen_num=1), RDSRdmaDest(rkey=2, offset=3), RDSSportIdx()],
            "0600000001 030000000200000003 0800",
            id="exactly full",
        ),
    ],
)
def test_extension_headers_and_their_bytes(extensions: list[Packet], hexadecimal: str) -> None:
    held = bytes.fromhex(hexadecimal).ljust(16, b"\0")
    assert bytes(RDS(exthdr=extensions))[32:] == held
    found = RDS(bytes(32) + held).exthdr
    assert [(type(item), item.fields) for item in found] == [
        (type(item), type(item)(bytes(item)).fields if bytes(item) else {}) for item in extensions
    ]


def test_an_entry_that_does_not_fit_is_not_read() -> None:
    data = bytes.fromhex("030000000100000002 040000000300") + b"\x01"
    found = RDS(bytes(32) + data).exthdr
    assert [type(item) for item in found] == [RDSRdmaDest, RDSUnread]
    assert found[1].load == data[9:]


def test_extension_headers_never_spill_into_the_payload() -> None:
    with pytest.raises(CodecError, match="16 bytes"):
        bytes(RDS(exthdr=[RDSRdmaDest(), RDSRdmaDest()]))


def test_several_extensions_with_rdma_bytes_set_the_flag() -> None:
    extensions = [RDSRdma(rkey=1), RDSRdmaBytes(length=2, direction_="write")]
    assert RDS(bytes(RDS(exthdr=extensions))).flags.exthdr_extension
    assert not RDS(bytes(RDS(exthdr=extensions, flags=0))).flags.exthdr_extension
    assert not RDS(bytes(RDS(exthdr=extensions[:1]))).flags.exthdr_extension


def test_length_is_that_of_the_payload_unless_it_is_given() -> None:
    assert RDS(bytes(RDS() / b"hello")).length == 5
    assert RDS(bytes(RDS(length=9000) / b"hello")).length == 9000


def test_tcp_carries_no_checksum_and_infiniband_always_one() -> None:
    assert (IP(bytes(IP() / TCP() / RDS(sequence=1, sport=2, dport=3))))[RDS].checksum == 0
    frame = IP(bytes(IP() / UDP() / BTH() / RDS(sequence=1, sport=36268, flags=2)))
    assert frame[RDS].checksum == 0x7052


@pytest.mark.parametrize("network", [IP(), IPv6()], ids=["IPv4", "IPv6"])
def test_tcp_port_16385_is_rds_on_either_side(network: Packet) -> None:
    message = RDS(sequence=1, sport=4001, dport=4002) / b"x"
    assert RDS in network.__class__(bytes(network / TCP(sport=5, dport=16385) / message))
    assert RDS in network.__class__(bytes(network / TCP(sport=16385, dport=5) / message))
    assert (network / TCP() / RDS())[TCP].dport == 16385


def test_messages_of_one_segment_become_layers() -> None:
    sent = RDS(sequence=1, sport=1, exthdr=HANDSHAKE) / RDS(sequence=2, sport=4, dport=5) / b"hello" / RDS(sequence=3)
    segment = IP(bytes(IP() / TCP() / sent))
    assert [segment.getlayer(RDS, number).length for number in (1, 2, 3)] == [0, 5, 0]
    assert segment.getlayer(RDS, 2).payload.load == b"hello"
    assert bytes(IP(bytes(segment))) == bytes(segment)


def test_a_segment_that_begins_inside_a_payload_stays_raw() -> None:
    assert IP(bytes(tcp(bytes(range(1, 200))))).lastlayer().__class__ is Raw
    assert IP(bytes(tcp(bytes(200)))).lastlayer().__class__ is Raw


def test_one_fault_does_not_hide_a_message() -> None:
    assert likely_header(bytes(RDS(sequence=1, sport=2, dport=3, flags=0x80)))
    assert not likely_header(bytes(RDS(sequence=1, sport=2, dport=3, flags=0x80, ack=4)))


def test_bytes_that_are_too_short_are_raw() -> None:
    assert type(RDS(b"short")) is Raw


def test_thousands_of_messages_in_a_segment_do_not_exhaust_the_stack() -> None:
    message = bytes(RDS(sequence=1, sport=2, dport=3))
    segment = RDS(message * 1300)
    assert segment.getlayer(RDS, MESSAGES_IN_A_ROW) is not None
    assert segment.getlayer(RDS, MESSAGES_IN_A_ROW + 1) is None
    assert len(segment[Padding].load) == 48 * (1300 - MESSAGES_IN_A_ROW)
    assert bytes(segment) == message * 1300


def test_tcp_session_joins_messages_over_segments() -> None:
    stream = b"".join(
        bytes(RDS(sequence=number, sport=4001, dport=4002) / (bytes([number]) * 700)) for number in range(1, 6)
    )
    cuts = [0, 30, 900, 1000, 2500, 2550, len(stream)]  # a second segment may end messages or none
    segments = [IP(bytes(tcp(stream[a:b], seq=1 + a))) for a, b in itertools.pairwise(cuts)]
    found = sniff(offline=PacketList(segments), session=TCPSession)
    messages = [layer for packet in found for layer in iter_rds(packet)]
    assert [(item.sequence, item.length, len(item.payload.load)) for item in messages] == [
        (number, 700, 700) for number in range(1, 6)
    ]


def iter_rds(packet: Packet) -> list[Packet]:
    return list(itertools.takewhile(bool, (packet.getlayer(RDS, number) for number in itertools.count(1))))


def test_a_congestion_bitmap_is_a_list_of_ports() -> None:
    update = IP(bytes(IP() / TCP() / RDS() / RDSCongestion(ports=[4001, 4000, 65535])))
    assert update[RDS].flags == 1
    assert update[RDS].length == 8192
    assert update[RDSCongestion].ports == [4000, 4001, 65535]
    assert bytes(update[RDSCongestion])[500] == 0b11
    assert "4000, 4001, 65535" in update.summary()


def test_half_a_bitmap_is_raw() -> None:
    assert type(RDS(bytes(RDS(flags=1, length=8192) / bytes(4096))).payload) is Raw


def test_a_pong_answers_its_ping() -> None:
    ping = RDS(sequence=1, sport=40000, dport=0)
    assert RDS(sequence=7, sport=0, dport=40000).answers(ping)
    assert not RDS(sequence=7, sport=0, dport=40001).answers(ping)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (RDS(sequence=7, sport=4001, dport=4002) / b"four", "RDS message 7 from port 4001 to port 4002, 4 bytes"),
        (RDS(sequence=7, sport=4, dport=5, flags=4), "RDS message 7 from port 4 to port 5, 0 bytes (retransmitted)"),
        (RDS(sequence=1, sport=1, exthdr=HANDSHAKE), "RDS handshake probe, 8 paths"),
        (RDS(sequence=1, dport=1, exthdr=HANDSHAKE), "RDS handshake answer, 8 paths"),
        (RDS(sequence=1, sport=40000), "RDS ping from port 40000"),
        (RDS(sequence=1, dport=40000), "RDS pong to port 40000"),
        (RDS(flags=1, length=8192), "RDS congestion bitmap"),
        (RDS(flags="ack_required+hb_ping"), "RDS heartbeat"),
    ],
)
def test_the_summary_is_plain_words(message: Packet, words: str) -> None:
    assert message.summary() == words


def test_an_acknowledgement_of_infiniband_is_told_in_words() -> None:
    frame = IP(bytes(IP() / UDP() / BTH(dqpn=17) / RDS(ack=12)))
    assert frame.summary().endswith("RDS acknowledgement of messages up to 12")


WORDS = {
    MessageKind.DATA: "message",
    MessageKind.CONGESTION: "congestion bitmap",
    MessageKind.PING: "ping",
    MessageKind.PONG: "pong",
    MessageKind.PROBE: "handshake probe",
    MessageKind.PROBE_REPLY: "handshake answer",
    MessageKind.ACK: "acknowledgement",
    MessageKind.HEARTBEAT: "heartbeat",
}


@pytest.mark.parametrize("transport", list(Transport))
def test_the_words_name_the_kind_that_the_engine_finds(transport: Transport) -> None:
    for flags, sport, dport, length in itertools.product((0, 1, 2, 3, 8, 16), (0, 1, 2), (0, 1, 2), (0, 8192)):
        message = RDS(sequence=1, flags=flags, sport=sport, dport=dport, length=length)
        kind = classify(RDS_HEADER.unpack_from(bytes(message)), transport)
        stack = (BTH() if transport is Transport.IB else TCP()) / message
        assert stack[RDS].mysummary().startswith(f"RDS {WORDS[kind]}")


def test_the_layer_shows_all_of_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    RDS(bytes(RDS(sequence=3, sport=4, dport=5, flags=6, exthdr=HANDSHAKE))).show()
    shown = capsys.readouterr().out
    for text in ("sequence  = 3", "ack_required+retransmitted", "npaths    = 8", "gen_num   = 0x3fca604d"):
        assert text in shown


def test_from_dissectors_rds_is_enough(root: Path) -> None:
    assert "RDS" in {layer.__name__ for _, layer in TCP.payload_guess}
