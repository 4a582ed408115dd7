"""What became of the frames of a capture: which were kept, and what was passed over and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


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

    def add(self, other: FrameCounts) -> None:
        """Add the numbers of another part of the same capture."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
