"""Scenarios over InfiniBand: what they may say, and the bytes that come of it."""

from __future__ import annotations

import pytest

from dissectors.wire.checksum import checksum_good
from dissectors.wire.cm import RDS_PRIVATE_V4, RDS_PRIVATE_V6
from dissectors.wire.infiniband import AETH, BTH, RETH, Opcode
from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER
from rdstool.craft.ib_build import IbBuilder, private_data, target
from rdstool.craft.reading import read
from rdstool.craft.scenario import Action
from rdstool.errors import UsageError
from rdstool.protocol.kinds import Transport

HEAD = """\
id = "x"
title = "A title"
requirement = "What has to be."
source = "protocol.md §1"
transport = "ib"
"""
OWN, PEER = "192.0.2.1", "192.0.2.2"


def builder() -> IbBuilder:
    return IbBuilder({"ours": 5000, "theirs": 4000})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[step]]\n"->" = "probe"\n', r"x\.toml:7: -> is 'probe', it is one of connect, crowd, message"),
        ('[[step]]\n"->" = "reset"\n', r"x\.toml:7: -> is 'reset'"),
        ('[[step]]\n"->" = "connect"\nmajr = 3\n', r"x\.toml:8: 'majr' has no meaning here, did you mean major\?"),
        ('[[step]]\n"->" = "connect"\nmajor = 300\n', r"x\.toml:8: major is 300, it can be 0 to 255"),
        ('[[step]]\n"->" = "connect"\nprivate_size = 57\n', r"x\.toml:8: private_size is 57, it can be 0 to 56"),
        ('[[step]]\n"->" = "message"\nfragments = [1]\n', r"x\.toml:8: fragments divide a payload: give one"),
        ('[[step]]\n"->" = "packet"\nopcode = "send"\n', r"x\.toml:8: there is no opcode 'send': they are send-first"),
        ('[[step]]\n"->" = "packet"\npsn = 0x1_000_000\n', r"x\.toml:8: psn is 16777216, it can be 0 to 16777215"),
        ('[[step]]\n"->" = "packet"\nicrc = "wrong"\n', r"x\.toml:8: icrc is 'wrong'"),
        ('[[step]]\n"->" = "packet"\ncarries = "bytes"\n', r"x\.toml:8: carries is 'bytes', it is one of congestion"),
        ('[[step]]\n"->" = "write"\nrkey = "mine"\n', r"x\.toml:8: rkey is 'mine', it can be 0 to 4294967295"),
        ('[[step]]\n"<-" = "reset"\n', r"x\.toml:7: 'reset' is nothing that a peer does"),
        ('[[step]]\n"<-" = "closed"\nreason = 28\n', r"x\.toml:8: reason is a field, and no message is expected"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read("x.toml", HEAD + text)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('transport = "ib"', 'transport = "udp"', r"x\.toml:5: transport is 'udp', it is one of ib, tcp"),
        ('transport = "ib"', 'transport = "ib"\nrole = "larger"', r"x\.toml:6: role has no meaning over InfiniBand"),
    ],
)
def test_the_head_is_checked(old: str, new: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read("x.toml", HEAD.replace(old, new) + '[[step]]\n"->" = "ping"\n')


def test_words_of_tcp_mean_nothing_and_tcp_is_what_is_played_where_nothing_is_said() -> None:
    assert read("x.toml", HEAD + '[[step]]\n"->" = "connect"\n').transport is Transport.IB
    plain = HEAD.replace('transport = "ib"\n', "")
    assert read("x.toml", plain + '[[step]]\n"->" = "connect"\n').transport is Transport.TCP
    with pytest.raises(UsageError, match="'major' has no meaning here"):
        read("x.toml", plain + '[[step]]\n"->" = "connect"\nmajor = 3\n')


def test_private_data_is_honest_but_for_what_is_said() -> None:
    said = RDS_PRIVATE_V4.unpack_from(private_data({"major": 9, "credit": 5}, OWN, PEER, 2))
    assert (said.saddr, said.daddr) == (bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]))
    assert (said.major, said.minor, said.tos, said.credit) == (9, 1, 2, 5)
    assert RDS_PRIVATE_V6.unpack_from(private_data({}, "fd00::1", "fd00::2", 0)).daddr[-1] == 2
    assert private_data({"daddr": "192.0.2.9"}, OWN, PEER, 0)[4:8] == bytes([192, 0, 2, 9])


def test_private_data_is_cut_filled_up_or_replaced() -> None:
    whole = private_data({}, OWN, PEER, 0)
    assert private_data({"private_size": 8}, OWN, PEER, 0) == whole[:8]
    assert private_data({"private_size": 40}, OWN, PEER, 0) == whole + b"\xff" * 8
    assert private_data({"private_hex": "0102"}, OWN, PEER, 0) == b"\x01\x02"
    with pytest.raises(UsageError, match="an IP address"):
        private_data({"saddr": "here"}, OWN, PEER, 0)


def test_a_message_becomes_frames_with_a_good_checksum_each() -> None:
    frames = builder().frames(Action.MESSAGE, {"payload_size": 5000}, 3, 8)
    assert [len(frame) - HEADER_BYTES for frame in frames] == [4096, 904]
    assert frames[0][:HEADER_BYTES] == frames[1][:HEADER_BYTES]
    header = RDS_HEADER.unpack_from(frames[1])
    assert (header.sequence, header.ack, header.length, header.sport, header.dport) == (3, 8, 5000, 5000, 4000)
    assert checksum_good(frames[0][:HEADER_BYTES])


def test_fragments_are_as_long_as_they_are_said_to_be() -> None:
    values = {"payload_size": 8192, "fragments": [100, 0, 4096], "checksum": "bad"}
    frames = builder().frames(Action.MESSAGE, values, 1, 0)
    assert [len(frame) - HEADER_BYTES for frame in frames] == [100, 0, 4096]
    assert not checksum_good(frames[0][:HEADER_BYTES])


def test_a_packet_has_the_right_numbers_but_for_what_is_said() -> None:
    made = builder()
    bth = BTH.unpack_from(made.packet({}, 0x11, 0xFFFFFF, b"abc"))
    assert (bth.opcode, bth.dqpn, bth.psn, bth.padcount, bth.ackreq) == (Opcode.SEND_ONLY, 0x11, 0xFFFFFF, 1, 1)
    other = BTH.unpack_from(made.packet({"ahead": 2, "dqpn": 7, "pkey": 1, "version": 3}, 0x11, 0xFFFFFF, b""))
    assert (other.psn, other.dqpn, other.pkey, other.version) == (1, 7, 1, 3)


def test_an_opcode_brings_its_headers() -> None:
    made = builder()
    write = made.packet({"opcode": "write-only", "rkey": 5, "va": 9}, 1, 0, bytes(8))
    reth = RETH.unpack_from(write, BTH.size)
    assert (reth.va, reth.rkey, reth.dlen, len(write)) == (9, 5, 8, BTH.size + RETH.size + 8)
    nak = made.packet({"opcode": "acknowledge", "syndrome": 0x60}, 1, 0, b"")
    assert AETH.unpack_from(nak, BTH.size).syndrome == 0x60
    sizes = {name: len(made.packet({"opcode": name}, 1, 0, b"")) for name in ("fetch-add", "send-last-invalidate")}
    assert sizes == {"fetch-add": 40, "send-last-invalidate": 16}
    assert len(made.packet({"opcode": 0xFF}, 1, 0, b"")) == BTH.size


def test_a_packet_carries_a_message_or_a_payload() -> None:
    made = builder()
    ping = RDS_HEADER.unpack_from(made.carried({"carries": "ping"}, 4, 0))
    assert (ping.sequence, ping.sport, ping.dport) == (4, 5000, 0)
    assert made.carried({"payload": "abc"}, 4, 0) == b"abc"


def test_offered_memory_is_counted_from_its_beginning() -> None:
    assert target({"rkey": 3, "address": 16}, None) == (16, 3)
    assert target({"rkey": "offered", "address": 16}, 0x100_0000_0007) == (0x110, 7)
