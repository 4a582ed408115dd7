"""Captures that no honest network makes, written directly as bytes so that large ones take little time."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
FIN, SYN, ACK = 1, 2, 16
RDS_PORT = 16385


def rds_header(sequence: int, length: int, sport: int = 4000, dport: int = 4000) -> bytes:
    """An RDS header as the kernel writes it over TCP."""
    return struct.pack(">QQIHH26x", sequence, 0, length, sport, dport)[:48].ljust(48, b"\0")


def tcp_frame(client: int, seq: int, flags: int, payload: bytes = b"", port: int = 40000) -> bytes:
    """A frame from host 10.0.0.0 + ``client`` to 10.255.255.254, without valid checksums."""
    total = 40 + len(payload)
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, total, 0, 0x4000, 64, 6, 0, 0x0A000000 + client, 0x0AFFFFFE)
    tcp = struct.pack(">HHIIBBHHH", port, RDS_PORT, seq & 0xFFFFFFFF, 1, 0x50, flags, 64240, 0, 0)
    return bytes(12) + b"\x08\x00" + ip + tcp + payload


def roce_frame(pair: int, back: bool, psn: int, payload: bytes) -> bytes:
    """A SEND between two hosts and queue pairs of their own, one direction or back, without valid ICRC."""
    hosts = 0x0A000000 + pair, 0x0AFFFFFE
    bth = struct.pack(">BBHII", 4, 0x40, 0xFFFF, (1 << 22 if back else 1 << 21) + pair, psn)
    body = bth + payload + bytes(4)
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 28 + len(body), 0, 0x4000, 64, 17, 0, *(hosts[::-1] if back else hosts))
    return bytes(12) + b"\x08\x00" + ip + struct.pack(">HHHH", 49152, 4791, 8 + len(body), 0) + body


def record(frame: bytes, number: int) -> bytes:
    """A frame with its header for a pcap file; ``number`` is its time in microseconds."""
    return struct.pack("<IIII", number // 10**6, number % 10**6, len(frame), len(frame)) + frame


def write_pcap(path: Path, frames: Iterable[bytes]) -> Path:
    """Write a pcap file of these frames."""
    with path.open("wb") as file:
        file.write(PCAP_HEADER)
        file.writelines(record(frame, number) for number, frame in enumerate(frames))
    return path
