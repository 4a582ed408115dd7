"""Frames to a classic pcap file (microseconds, Ethernet), with IPv4 headers around them, and from one."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

MAGIC = 0xA1B2C3D4
ETHERNET = 1
SNAPLEN = 262144
IP_TCP, IP_UDP = 6, 17
START_US = 1_700_000_000_000_000


@dataclass(slots=True)
class Pcap:
    """A capture in the making. ``now`` is the time of the next frame, us since 1970."""

    frames: list[tuple[int, bytes]] = field(default_factory=list)
    now: int = START_US

    def add(self, frame: bytes) -> int:
        """Append an Ethernet frame; its number, from 1."""
        self.frames.append((self.now, frame))
        self.now += 100
        return len(self.frames)

    def ip(self, source: str, destination: str, protocol: int, body: bytes) -> int:
        """Append an IPv4 packet."""
        src, dst = IPv4Address(source).packed, IPv4Address(destination).packed
        header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol, 0, src, dst)
        return self.add(bytes.fromhex("020000000002020000000001") + b"\x08\x00" + header + body)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * 1_000_000)

    def write(self, path: Path) -> Path:
        """Write the file and return its path."""
        with path.open("wb") as out:
            out.write(struct.pack("<IHHiIII", MAGIC, 2, 4, 0, 0, SNAPLEN, ETHERNET))
            for time, frame in self.frames:
                out.write(struct.pack("<IIII", time // 1_000_000, time % 1_000_000, len(frame), len(frame)) + frame)
        return path


def roce_frames(path: Path) -> Iterator[bytes]:
    """Whole frames to port 4791 of a capture of Ethernet and IPv4."""
    content = gzip.decompress(path.read_bytes())
    position = 24
    while position < len(content):
        captured, length = struct.unpack_from("<II", content, position + 8)
        frame = content[position + 16 : position + 16 + captured]
        position += 16 + captured
        udp = frame[12:14] == b"\x08\x00" and frame[23] == 17 and captured == length
        if udp and struct.unpack_from(">H", frame, 36)[0] == 4791:
            yield frame
