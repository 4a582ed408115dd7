"""What became of the frames of a capture: which were kept, and what was passed over and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

NAMED_KINDS = 3
"""Protocols, EtherTypes and link types that are named in a line, of each."""

_PROTOCOLS = {1: "ICMP", 2: "IGMP", 50: "ESP", 58: "ICMPv6", 89: "OSPF", 103: "PIM", 112: "VRRP", 132: "SCTP"}
_ETHERTYPES = {0: "802.3", 0x8809: "LACP", 0x8863: "PPPoE discovery", 0x88CC: "LLDP", 0x88E5: "MACsec", 0x88F7: "PTP"}
_SAID = {
    "other TCP ports": "on other TCP ports",
    "other UDP ports": "to other UDP ports",
    "other IP protocols": "of other IP protocols",
    "other EtherTypes": "of other EtherTypes",
    "other link types": "of other link types",
    "wrong TCP checksum": "with a wrong TCP checksum",
}
"""Reasons behind a number of frames."""


@dataclass(slots=True)
class FrameCounts:
    """Numbers of frames; each frame is in exactly one of them besides ``frames``, ``snapped`` and ``tunnelled``.

    One that holds a packet in a tunnel is in that of the packet.
    """

    frames: int = 0
    bytes: int = 0
    """Captured bytes of all frames."""
    snapped: int = 0
    """Frames that were not captured to their end."""
    tunnelled: int = 0
    """Frames whose packet was taken out of a tunnel."""
    too_deep: int = 0
    """Frames with tunnels in more tunnels than are looked into."""
    tcp: int = 0
    """TCP segments on the ports that were asked for."""
    tcp_damaged: int = 0
    """TCP segments whose checksum is wrong, on the ports that were asked for; where it was to be looked at."""
    tcp_other: int = 0
    """TCP segments on other ports."""
    ib: int = 0
    """Packets of the InfiniBand transport."""
    udp_other: int = 0
    """UDP datagrams to other ports than that of RoCE."""
    fragments: int = 0
    """Fragments of IP datagrams that were put together; the one that completed its datagram counts as what that is."""
    fragments_lost: int = 0
    """Fragments of IP datagrams that are not whole: others are missing, or contradict them."""
    cut: int = 0
    """Captured bytes end inside the headers."""
    malformed: int = 0
    """Headers that contradict themselves, such as an IP header length below 20."""
    arp: int = 0
    no_packet: int = 0
    """Frames that hold no packet: what else pcapng files have that Wireshark gives the number of a frame."""
    other_protocols: Counter[int] = field(default_factory=Counter)
    """Frames by IP protocol number."""
    other_ethertypes: Counter[int] = field(default_factory=Counter)
    """Frames by EtherType; lengths (802.3, below 0x0600) count as 0."""
    other_links: Counter[int] = field(default_factory=Counter)
    """Frames by LINKTYPE, for those that cannot be told apart further."""

    @property
    def passed_over(self) -> int:
        """Frames that brought neither a TCP segment nor an InfiniBand packet."""
        return self.frames - self.tcp - self.ib

    def reasons(self) -> dict[str, int]:
        """Why frames were passed over, and how many."""
        numbers = {
            "other TCP ports": self.tcp_other,
            "other UDP ports": self.udp_other,
            "IP fragments put together": self.fragments,
            "IP fragments whose others are missing": self.fragments_lost,
            "ARP": self.arp,
            "other IP protocols": self.other_protocols.total(),
            "other EtherTypes": self.other_ethertypes.total(),
            "other link types": self.other_links.total(),
            "cut in the headers": self.cut,
            "malformed": self.malformed,
            "in too many tunnels": self.too_deep,
            "without a packet": self.no_packet,
            "wrong TCP checksum": self.tcp_damaged,
        }
        return {reason: number for reason, number in numbers.items() if number}

    def kinds(self) -> dict[str, dict[str, int]]:
        """Which other IP protocols, EtherTypes and link types they were, the most frequent first."""
        kinds = {
            "other IP protocols": (self.other_protocols, _PROTOCOLS, "IP protocol {}"),
            "other EtherTypes": (self.other_ethertypes, _ETHERTYPES, "EtherType 0x{:04x}"),
            "other link types": (self.other_links, {}, "link type {}"),
        }
        return {
            reason: {names.get(kind, unnamed.format(kind)): number for kind, number in counter.most_common()}
            for reason, (counter, names, unnamed) in kinds.items()
            if counter
        }

    def add(self, other: FrameCounts) -> None:
        """Add the numbers of another part of the same capture."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def passed_over_text(reasons: Mapping[str, int], kinds: Mapping[str, Mapping[str, int]]) -> str:
    """What was passed over in one line; of each reason the most frequent kinds."""
    parts: list[str] = []
    for reason, number in reasons.items():
        named = list(kinds.get(reason, {}).items())[:NAMED_KINDS]
        parts += [f"{count} {kind}" for kind, count in named]
        rest = number - sum(count for _, count in named)
        parts += [f"{rest} {_SAID.get(reason, reason)}"] if rest else []
    return ", ".join(parts)
