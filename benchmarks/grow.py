"""Grow a real capture to any size, as valid traffic: the same conversations again, each time between other hosts.

Copy number *n* happens in the network 10.(n / 256).(n mod 256).0/24, later than the copies before it. Addresses are
replaced in IPv4 headers, ARP and the connection requests of RDMA-CM; the checksums of IPv4, TCP and UDP and the
invariant CRC of RoCE v2 are corrected to fit. ``interleave`` copies run at the same time, frame by frame, so that
a reader has several sets of streams in hand. The same arguments give the same file, byte for byte.

    python benchmarks/grow.py pcaps/tcp-basic-73/a.pcap.gz tcp.pcap --size 300M
"""

from __future__ import annotations

import argparse
import gzip
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

FILE_HEADER_BYTES = 24
RECORD_HEADER_BYTES = 16
ETHERNET_BYTES = 14
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
ROCE_V2_PORT = 4791
ICRC_BYTES = 4
UD_SEND_ONLY = 0x64
MAX_COPIES = 1 << 16
PAUSE_S = 1
"""Between the end of a group of copies and the start of the next."""

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}


class Sites:
    """What has to be changed in one copy, as positions in the source's records."""

    def __init__(self) -> None:
        self.addresses: list[tuple[int, int]] = []
        """(position, host)"""
        self.sums: list[tuple[int, int, int]] = []
        """(position of an Internet checksum, the two hosts whose addresses it covers)"""
        self.crcs: list[int] = []
        """Position of an invariant CRC."""
        self.crc_parts: list[tuple[int, int, int]] = []
        """(index in ``crcs``, bytes between an address and the CRC that covers it, host)"""


@dataclass(frozen=True)
class Source:
    """A capture whose records are to be repeated."""

    header: bytes
    records: Bytes
    starts: Ints
    lengths: Ints
    seconds: int
    """What one pass through it takes, rounded up."""
    hosts: list[bytes]
    """IPv4 addresses in ascending order, so that copies keep who is the smaller one."""
    sites: Sites


def read(path: Path) -> Source:
    """Read a classic little-endian pcap file of Ethernet frames, plain or gzip."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    magic, link = struct.unpack_from("<I16xI", content)
    if magic != 0xA1B2C3D4 or link != 1:
        raise SystemExit(f"{path}: not a little-endian pcap file of Ethernet frames in microseconds")
    records = content[FILE_HEADER_BYTES:]
    starts, lengths, times = [], [], []
    position = 0
    while position < len(records):
        second, captured = struct.unpack_from("<I4xI", records, position)
        starts.append(position)
        lengths.append(RECORD_HEADER_BYTES + captured)
        times.append(second)
        position += RECORD_HEADER_BYTES + captured
    frames = [(start + RECORD_HEADER_BYTES, start + length) for start, length in zip(starts, lengths, strict=True)]
    hosts = sorted({address for frame in frames for address in _addresses(records, *frame)})
    if len(hosts) > 254:
        raise SystemExit(f"{path}: {len(hosts)} hosts, a copy has room for 254")
    return Source(
        content[:FILE_HEADER_BYTES],
        np.frombuffer(records, np.uint8),
        np.array(starts, np.int64),
        np.array(lengths, np.int64),
        max(times) - min(times) + 1,
        hosts,
        _find_sites(records, frames, hosts),
    )


def _addresses(records: bytes, start: int, end: int) -> Iterator[bytes]:
    """Source and destination of an IPv4 frame."""
    if end - start >= ETHERNET_BYTES + 20 and struct.unpack_from(">H", records, start + 12)[0] == ETHERTYPE_IPV4:
        ip = start + ETHERNET_BYTES
        yield records[ip + 12 : ip + 16]
        yield records[ip + 16 : ip + 20]


def _find_sites(records: bytes, frames: list[tuple[int, int]], hosts: list[bytes]) -> Sites:
    sites = Sites()
    number = {address: host for host, address in enumerate(hosts)}
    for start, end in frames:
        ethertype = struct.unpack_from(">H", records, start + 12)[0]
        if ethertype == ETHERTYPE_ARP:
            for position in (start + 28, start + 38):
                host = number.get(records[position : position + 4])
                if host is not None:
                    sites.addresses.append((position, host))
        elif ethertype == ETHERTYPE_IPV4:
            _find_ipv4_sites(sites, records, start + ETHERNET_BYTES, end, number)
    return sites


def _find_ipv4_sites(sites: Sites, records: bytes, ip: int, end: int, number: dict[bytes, int]) -> None:
    source, destination = (number[records[ip + at : ip + at + 4]] for at in (12, 16))
    addresses = [(ip + 12, source), (ip + 16, destination)]
    sites.sums.append((ip + 10, source, destination))
    transport = ip + 4 * (records[ip] & 15)
    if records[ip + 9] == PROTOCOL_TCP:
        sites.sums.append((transport + 16, source, destination))
    elif records[ip + 9] == PROTOCOL_UDP:
        port, _, checksum = struct.unpack_from(">HHH", records, transport + 2)
        if checksum:
            sites.sums.append((transport + 6, source, destination))
        if port == ROCE_V2_PORT:
            icrc = min(end, ip + struct.unpack_from(">H", records, ip + 2)[0]) - ICRC_BYTES
            if records[transport + 8] == UD_SEND_ONLY:
                addresses += _addresses_inside(records, transport + 20, icrc, number)
            sites.crc_parts += [(len(sites.crcs), icrc - position - 4, host) for position, host in addresses]
            sites.crcs.append(icrc)
    sites.addresses += addresses


def _addresses_inside(records: bytes, start: int, end: int, number: dict[bytes, int]) -> Iterator[tuple[int, int]]:
    """Where a management datagram names hosts: GIDs of the paths and private data of RDMA-CM and RDS."""
    for address, host in number.items():
        position = records.find(address, start, end)
        while position >= 0:
            yield position, host
            position = records.find(address, position + 4, end)


class CrcChange:
    """How the invariant CRCs change when addresses do.

    A CRC is linear: the change depends on the changed bits and on how many bytes follow them, on nothing else.
    """

    def __init__(self, source: Source) -> None:
        parts = np.array(source.sites.crc_parts, np.int64).reshape(-1, 3)
        self.crc, self.host = parts[:, 0], parts[:, 2]
        distances, self.distance = np.unique(parts[:, 1], return_inverse=True)
        bits = [(1 << bit).to_bytes(4, "little") for bit in range(32)]
        self.of_bit = np.array([[_crc_of(bit, int(n)) for bit in bits] for n in distances], np.uint32).reshape(-1, 32)
        self.old = [int.from_bytes(address, "little") for address in source.hosts]

    def of(self, new: list[bytes], crcs: int) -> NDArray[np.uint32]:
        """What to exclusive-or into each of ``crcs`` CRCs."""
        changes = np.zeros((len(new), len(self.of_bit)), np.uint32)
        for host, address in enumerate(new):
            difference = self.old[host] ^ int.from_bytes(address, "little")
            for bit in range(32):
                if difference >> bit & 1:
                    changes[host] ^= self.of_bit[:, bit]
        result = np.zeros(crcs, np.uint32)
        np.bitwise_xor.at(result, self.crc, changes[self.host, self.distance])
        return result


def _crc_of(change: bytes, zeros: int) -> int:
    """The part of a CRC-32 that ``change``, followed by so many zero bytes, is responsible for."""
    return zlib.crc32(change + bytes(zeros)) ^ zlib.crc32(bytes(len(change) + zeros))


class Group:
    """``width`` copies that run at the same time: frame 1 of each, frame 2 of each, and so on."""

    def __init__(self, source: Source, width: int) -> None:
        self.source, self.width = source, width
        self.crc_change = CrcChange(source)
        self.buffer = np.empty(width * len(source.records), np.uint8)
        for start, length in zip(source.starts.tolist(), source.lengths.tolist(), strict=True):
            place = width * start
            self.buffer[place : place + width * length] = np.tile(source.records[start : start + length], width)
        sites = source.sites
        places = np.array([position for position, _ in sites.addresses], np.int64)
        self.address_hosts = np.array([host for _, host in sites.addresses], np.int64)
        sums = np.array(sites.sums, np.int64).reshape(-1, 3)
        self.sum_hosts = sums[:, 1:]
        records = source.records.astype(np.int64)
        # RFC 1624: the new sum is the old one, less the old words, plus the new ones, all in ones' complement.
        self.sum_rest = (~_be16(records, sums[:, 0]) & 0xFFFF) + sum(
            ~np.array([_words(address) for address in source.hosts], np.int64)[hosts] & 0xFFFF
            for hosts in self.sum_hosts.T
        ).sum(axis=1)
        crcs = np.array(sites.crcs, np.int64)
        self.crc_old = source.records[crcs[:, None] + np.arange(4)].copy().view("<u4")[:, 0]
        self.time_old = source.records[source.starts[:, None] + np.arange(8)].copy().view("<u4").astype(np.int64)
        self.places = [
            {
                "times": self._place(source.starts, copy)[:, None] + np.arange(8),
                "addresses": self._place(places, copy)[:, None] + np.arange(4),
                "sums": self._place(sums[:, 0], copy)[:, None] + np.arange(2),
                "crcs": self._place(crcs, copy)[:, None] + np.arange(4),
            }
            for copy in range(width)
        ]

    def _place(self, positions: Ints, copy: int) -> Ints:
        """Where positions of the source are found in the buffer."""
        record = np.searchsorted(self.source.starts, positions, "right") - 1
        start = self.source.starts[record]
        return self.width * start + copy * self.source.lengths[record] + positions - start

    def written(self, first_copy: int, later_s: int) -> Bytes:
        """The group's records as copies ``first_copy`` and following; valid until the next call."""
        for copy, places in enumerate(self.places):
            number = first_copy + copy
            new = [bytes((10, number >> 8, number & 255, host + 1)) for host in range(len(self.source.hosts))]
            self._write(places["addresses"], np.frombuffer(b"".join(new), np.uint8).reshape(-1, 4)[self.address_hosts])
            words = np.array([sum(_words(address)) for address in new], np.int64)
            total = self.sum_rest + words[self.sum_hosts].sum(axis=1)
            for _ in range(3):
                total = (total & 0xFFFF) + (total >> 16)
            self._write(places["sums"], (~total & 0xFFFF).astype(">u2"))
            self._write(places["crcs"], (self.crc_old ^ self.crc_change.of(new, len(self.crc_old))).astype("<u4"))
            micros = self.time_old[:, 1] + copy
            times = np.stack([self.time_old[:, 0] + later_s + micros // 10**6, micros % 10**6], axis=1)
            self._write(places["times"], times.astype("<u4"))
        return self.buffer

    def _write(self, places: Ints, values: NDArray[np.generic]) -> None:
        self.buffer[places] = np.ascontiguousarray(values).view(np.uint8).reshape(places.shape)


def _be16(records: Ints, positions: Ints) -> Ints:
    return records[positions] << 8 | records[positions + 1]


def _words(address: bytes) -> tuple[int, int]:
    first, second = struct.unpack(">HH", address)
    return first, second


def grow(source_path: Path, output: BinaryIO, size: int, interleave: int = 4) -> int:
    """Write at least ``size`` bytes of whole copies of ``source_path``; return how many copies that took."""
    source = read(source_path)
    copies = -(-max(size - FILE_HEADER_BYTES, 1) // len(source.records))
    if copies > MAX_COPIES:
        raise SystemExit(f"{copies} copies are wanted, there are networks for {MAX_COPIES}")
    output.write(source.header)
    group = Group(source, min(interleave, copies))
    for number, first in enumerate(range(0, copies, group.width)):
        if copies - first < group.width:
            group = Group(source, copies - first)
        output.write(group.written(first, number * (source.seconds + PAUSE_S)).data)
    return copies


def bytes_of(text: str) -> int:
    """``300M`` -> 300,000,000."""
    unit = UNITS.get(text[-1:].upper())
    return int(float(text[:-1]) * unit) if unit else int(text)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Grow a real capture to any size, as valid traffic.")
    parser.add_argument("source", type=Path, help="pcap file of Ethernet frames, plain or gzip")
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "--size", type=bytes_of, default=300 * 10**6, metavar="BYTES", help="with K, M or G; default 300M"
    )
    parser.add_argument("--interleave", type=int, default=4, metavar="N", help="copies that run at the same time")
    arguments = parser.parse_args()
    with arguments.output.open("wb") as output:
        copies = grow(arguments.source, output, arguments.size, arguments.interleave)
    sys.stderr.write(f"{arguments.output}: {copies} copies, {arguments.output.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
