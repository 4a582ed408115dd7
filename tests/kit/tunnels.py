"""Packets in tunnels. The headers stand here a second time, apart from the tables that read them."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.fuzz.damage import RECORD_HEADER_BYTES, split

ETHERNET_BYTES = 14
IPV4, IPV6, BRIDGED, MPLS = 0x0800, 0x86DD, 0x6558, 0x8847
PPPOE, PROVIDER_BRIDGED, NSH = 0x8864, 0x88E7, 0x894F
IN_IPV4, IN_IPV6, GRE, AUTHENTICATION, ETHERIP, MPLS_IN_IP, UDP = 4, 41, 47, 51, 97, 137, 17
ROUTING, ETHERNET_IN_IP = 43, 143
LABEL = 0x12345
_MACS = bytes.fromhex("020000000012020000000011")

Wrap = Callable[[bytes], bytes]
"""From an Ethernet frame to one that carries it, or the packet in it, in a tunnel."""


def ethernet(kind: int, packet: bytes) -> bytes:
    """A frame between two bridges."""
    return _MACS + struct.pack(">H", kind) + packet


def ipv4(protocol: int, body: bytes) -> bytes:
    """A frame with a packet between two ends of tunnels."""
    hosts = bytes((192, 0, 2, 1, 192, 0, 2, 2))
    return ethernet(IPV4, struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + hosts + body)


def ipv6(protocol: int, body: bytes) -> bytes:
    """The same over IPv6."""
    hosts = bytes.fromhex("20010db8" + 23 * "0" + "1" + "20010db8" + 23 * "0" + "2")
    return ethernet(IPV6, struct.pack(">IHBB", 0x60000000, len(body), protocol, 64) + hosts + body)


def udp(port: int, body: bytes) -> bytes:
    """A frame with a datagram between them."""
    return ipv4(UDP, struct.pack(">HHHH", 50000, port, 8 + len(body), 0) + body)


def label(bottom: bool = True, value: int = LABEL) -> bytes:
    """An entry of a label stack."""
    return struct.pack(">I", value << 12 | bottom << 8 | 64)


def _kind(frame: bytes) -> int:
    return int.from_bytes(frame[ETHERNET_BYTES - 2 : ETHERNET_BYTES])


def _packet(frame: bytes) -> bytes:
    return frame[ETHERNET_BYTES:]


def ip_in_ip(frame: bytes) -> bytes:
    """IP in IPv4: 6in4 where the packet is IPv6."""
    return ipv4(IN_IPV4 if _kind(frame) == IPV4 else IN_IPV6, _packet(frame))


def ip_in_ipv6(frame: bytes) -> bytes:
    """IP in IPv6."""
    return ipv6(IN_IPV4 if _kind(frame) == IPV4 else IN_IPV6, _packet(frame))


def gre(frame: bytes) -> bytes:
    """GRE without options."""
    return ipv4(GRE, struct.pack(">HH", 0, _kind(frame)) + _packet(frame))


def gre_with_key(frame: bytes) -> bytes:
    """GRE with a key."""
    return ipv4(GRE, struct.pack(">HHI", 0x2000, _kind(frame), 7) + _packet(frame))


def gre_with_all(frame: bytes) -> bytes:
    """GRE with checksum, key and sequence number, over IPv6."""
    return ipv6(GRE, struct.pack(">HHIII", 0xB000, _kind(frame), 0xABCD0000, 7, 1) + _packet(frame))


def nvgre(frame: bytes) -> bytes:
    """Ethernet over GRE with a key."""
    return ipv4(GRE, struct.pack(">HHI", 0x2000, BRIDGED, 7 << 8) + frame)


def erspan_1(frame: bytes) -> bytes:
    """A mirrored frame without a header of its own."""
    return ipv4(GRE, struct.pack(">HH", 0, 0x88BE) + frame)


def erspan_2(frame: bytes) -> bytes:
    """A mirrored frame."""
    return ipv4(GRE, struct.pack(">HHI", 0x1000, 0x88BE, 1) + struct.pack(">HHI", 0x1005, 0x0001, 0) + frame)


def erspan_3(frame: bytes) -> bytes:
    """A mirrored frame with the time of the switch."""
    return ipv4(GRE, struct.pack(">HHI", 0x1000, 0x22EB, 1) + struct.pack(">HHIHH", 0x2005, 1, 99, 0, 0) + frame)


def erspan_3_platform(frame: bytes) -> bytes:
    """The same with what a platform adds."""
    header = struct.pack(">HHIHH", 0x2005, 1, 99, 0, 1) + b"\x0c" + bytes(7)
    return ipv4(GRE, struct.pack(">HHI", 0x1000, 0x22EB, 1) + header + frame)


def vxlan(frame: bytes, port: int = 4789) -> bytes:
    """VXLAN."""
    return udp(port, struct.pack(">II", 0x08000000, 7 << 8) + frame)


def vxlan_gpe(frame: bytes) -> bytes:
    """VXLAN that names what it carries: IP."""
    kind = 1 if _kind(frame) == IPV4 else 2
    return udp(4790, struct.pack(">II", 0x0C000000 | kind, 7 << 8) + _packet(frame))


def vxlan_gpe_mpls(frame: bytes) -> bytes:
    """The same with MPLS."""
    return udp(4790, struct.pack(">II", 0x0C000005, 7 << 8) + label() + _packet(frame))


def geneve(frame: bytes) -> bytes:
    """GENEVE with Ethernet and one option."""
    return udp(6081, struct.pack(">BBHI", 2, 0x40, BRIDGED, 7 << 8) + bytes.fromhex("0102800100000001") + frame)


def geneve_ip(frame: bytes) -> bytes:
    """GENEVE with IP."""
    return udp(6081, struct.pack(">BBHI", 0, 0, _kind(frame), 7 << 8) + _packet(frame))


def mpls(frame: bytes) -> bytes:
    """MPLS with two labels."""
    return ethernet(MPLS, label(bottom=False) + label() + _packet(frame))


def mpls_in_vlan(frame: bytes) -> bytes:
    """MPLS in a VLAN."""
    return ethernet(0x8100, b"\x00\x05" + struct.pack(">H", MPLS) + label() + _packet(frame))


def mpls_in_ip(frame: bytes) -> bytes:
    """MPLS over IP."""
    return ipv4(MPLS_IN_IP, label() + _packet(frame))


def mpls_in_udp(frame: bytes) -> bytes:
    """MPLS over UDP."""
    return udp(6635, label() + _packet(frame))


def mpls_in_gre(frame: bytes) -> bytes:
    """MPLS over GRE."""
    return ipv4(GRE, struct.pack(">HH", 0, MPLS) + label() + _packet(frame))


def pppoe(frame: bytes) -> bytes:
    """IP over PPP over Ethernet."""
    body = (b"\x00\x21" if _kind(frame) == IPV4 else b"\x00\x57") + _packet(frame)
    return ethernet(PPPOE, struct.pack(">BBHH", 0x11, 0, 7, len(body)) + body)


def pppoe_in_vlan(frame: bytes) -> bytes:
    """The same in a VLAN, as many access networks have it."""
    inner = pppoe(frame)
    return inner[:12] + b"\x81\x00\x00\x05" + inner[12:]


def mac_in_mac(frame: bytes) -> bytes:
    """Ethernet over the Ethernet of a provider."""
    return ethernet(PROVIDER_BRIDGED, struct.pack(">I", 7) + frame)


def mac_in_mac_in_vlan(frame: bytes) -> bytes:
    """The same in a backbone VLAN, with a VLAN of the customer."""
    inner = struct.pack(">I", 7) + frame[:12] + b"\x81\x00\x00\x05" + frame[12:]
    return ethernet(0x88A8, b"\x00\x09" + struct.pack(">H", PROVIDER_BRIDGED) + inner)


def _service(next_protocol: int, body: bytes, words: int = 6, kind: int = 1) -> bytes:
    """A network service header of ``words`` of four bytes."""
    return struct.pack(">HBBI", 0x0FC0 | words, kind, next_protocol, 0x7FF) + bytes(4 * words - 8) + body


def nsh(frame: bytes) -> bytes:
    """IP behind a network service header."""
    return ethernet(NSH, _service(1 if _kind(frame) == IPV4 else 2, _packet(frame)))


def nsh_ethernet(frame: bytes) -> bytes:
    """A frame behind one without metadata."""
    return ethernet(NSH, _service(3, frame, words=2, kind=2))


def vxlan_gpe_nsh(frame: bytes) -> bytes:
    """VXLAN that names what it carries: a network service header."""
    return udp(4790, struct.pack(">II", 0x0C000004, 7 << 8) + _service(3, frame))


def gtp(frame: bytes) -> bytes:
    """The user plane of GTP."""
    return udp(2152, struct.pack(">BBHI", 0x30, 255, len(_packet(frame)), 7) + _packet(frame))


def gtp_with_extensions(frame: bytes) -> bytes:
    """The same with a sequence number and two extension headers, one of them that of 5G."""
    body = struct.pack(">HBB", 9, 0, 0xC0) + b"\x01\x00\x05\x85" + b"\x02\x01\x00" + bytes(5) + _packet(frame)
    return udp(2152, struct.pack(">BBHI", 0x36, 255, len(body), 7) + body)


def _authenticated(next_header: int, body: bytes) -> bytes:
    """An authentication header with 12 bytes of proof."""
    return struct.pack(">BBHII", next_header, 4, 0, 7, 1) + bytes(12) + body


def ip_in_authentication(frame: bytes) -> bytes:
    """IPsec in tunnel mode, without encryption."""
    kind = IN_IPV4 if _kind(frame) == IPV4 else IN_IPV6
    return ipv4(AUTHENTICATION, _authenticated(kind, _packet(frame)))


def authenticated(frame: bytes) -> bytes:
    """IPsec in transport mode, without encryption: no tunnel, but one header more behind that of IP."""
    head = bytearray(frame[: ETHERNET_BYTES + (20 if _kind(frame) == IPV4 else 40)])
    length, protocol = (16, 23) if _kind(frame) == IPV4 else (18, 20)
    body = _authenticated(head[protocol], frame[len(head) :])
    more = len(head) + len(body) - len(frame)
    head[length : length + 2] = (int.from_bytes(head[length : length + 2]) + more).to_bytes(2)
    head[protocol] = AUTHENTICATION
    return bytes(head) + body


def segment_routing(frame: bytes) -> bytes:
    """Ethernet over IPv6 with one segment to go to."""
    segments = struct.pack(">BBBBI", ETHERNET_IN_IP, 2, 4, 0, 0) + bytes.fromhex("20010db8" + 23 * "0" + "2")
    return ipv6(ROUTING, segments + frame)


def etherip(frame: bytes) -> bytes:
    """Ethernet over IP."""
    return ipv4(ETHERIP, b"\x30\x00" + frame)


def tagged_in_vxlan(frame: bytes) -> bytes:
    """A frame with two VLAN tags over VXLAN."""
    return vxlan(frame[:12] + b"\x88\xa8\x00\x07\x81\x00\x00\x05" + frame[12:])


def mirrored_overlay(frame: bytes) -> bytes:
    """ERSPAN of VXLAN over MPLS."""
    outer = vxlan(frame)
    return erspan_3(ethernet(MPLS, label() + outer[ETHERNET_BYTES:]))


def pseudowire(frame: bytes) -> bytes:
    """Ethernet over MPLS."""
    return ethernet(MPLS, label() + frame)


def pseudowire_with_word(frame: bytes) -> bytes:
    """The same with a control word."""
    return ethernet(MPLS, label() + bytes(4) + frame)


def vxlan_of_linux(frame: bytes) -> bytes:
    """VXLAN on the port that Linux takes where none is given."""
    return vxlan(frame, 8472)


KNOWN_TO_WIRESHARK: tuple[Wrap, ...] = (
    ip_in_ip,
    ip_in_ipv6,
    gre,
    gre_with_key,
    gre_with_all,
    nvgre,
    erspan_1,
    erspan_2,
    erspan_3,
    erspan_3_platform,
    vxlan,
    vxlan_gpe,
    vxlan_gpe_mpls,
    geneve,
    geneve_ip,
    mpls,
    mpls_in_vlan,
    mpls_in_ip,
    mpls_in_udp,
    mpls_in_gre,
    etherip,
    pppoe,
    pppoe_in_vlan,
    mac_in_mac,
    mac_in_mac_in_vlan,
    nsh,
    nsh_ethernet,
    vxlan_gpe_nsh,
    gtp,
    gtp_with_extensions,
    ip_in_authentication,
    segment_routing,
    tagged_in_vxlan,
    mirrored_overlay,
)
"""What Wireshark reads too, without a word."""
ALL = (*KNOWN_TO_WIRESHARK, pseudowire, pseudowire_with_word, vxlan_of_linux)


def in_turn(number: int, frame: bytes, wraps: tuple[Wrap, ...] = KNOWN_TO_WIRESHARK) -> bytes:
    """Frame ``number`` in the tunnel whose turn it is; as it was, where it carries no IP."""
    return wraps[number % len(wraps)](frame) if _kind(frame) in (IPV4, IPV6) else frame


def in_tunnels(capture: bytes, wraps: tuple[Wrap, ...] = ALL) -> bytes:
    """A pcap file whose frames come in one tunnel after the other."""
    header, frames = split(capture)
    parts = [header]
    for number, record in enumerate(frames):
        frame = in_turn(number, record[RECORD_HEADER_BYTES:], wraps)
        parts.append(record[:8] + struct.pack("<II", len(frame), len(frame)) + frame)
    return b"".join(parts)
