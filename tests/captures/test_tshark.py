"""tshark reads the same headers from the same frames, and finds nothing wrong with grown captures."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.grow import grow
from rdstool.capture.packets.network import Parsed
from rdstool.capture.reading import Reading, read_here
from rdstool.capture.streams import address_bytes, address_text

pytestmark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed (make test, as root)")

PCAPS = Path(__file__).parents[2] / "pcaps"
TCP = sorted(PCAPS.glob("tcp-*/a.pcap.gz"))
INFINIBAND = sorted(PCAPS.glob("ib-*/a.pcap.gz"))
RDS_PORT = 16385
BTH_BYTES = 12
ADDRESSES = ("ip.src", "ipv6.src", "ip.dst", "ipv6.dst")
TCP_FIELDS = ("tcp.seq_raw", "tcp.ack_raw", "tcp.flags", "tcp.len")
BTH_FIELDS = ("infiniband.bth.opcode", "infiniband.bth.destqp", "infiniband.bth.psn")


def tshark(path: Path, fields: Sequence[str], accept: str = "", *options: str) -> list[tuple[str, ...]]:
    """These fields of all frames that tshark's display filter lets pass."""
    # tshark takes payloads of RDS for other protocols; no name is looked up, so that nothing leaves the machine.
    command = ["tshark", "-n", "-r", str(path), "-Y", accept, "-T", "fields", *options]
    for unwanted in ("rpcordma", "idp", "lapbether"):
        command += ["--disable-protocol", unwanted]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


def parsed(path: Path) -> Iterator[Parsed]:
    """What the bulk path makes of a capture, before streams are put together."""
    for parsed, _ in read_here(Reading((str(path),), frozenset({RDS_PORT}), follow=False)):
        yield parsed


def text(hi: int, lo: int) -> str:
    return address_text(address_bytes(hi, lo))


def ends_of(row: tuple[str, ...]) -> tuple[str, str]:
    """Source and destination of a row that begins with the frame's number and ``ADDRESSES``."""
    return row[1] or row[2], row[3] or row[4]


@pytest.mark.parametrize("path", TCP, ids=lambda path: path.parent.name)
def test_tcp_segments_are_those_that_tshark_sees(path: Path) -> None:
    columns = ("frame", "src_hi", "src_lo", "dst_hi", "dst_lo", "seq", "ack", "flags", "length")
    ours = [
        (frame, text(*ends[:2]), text(*ends[2:]), seq, ack, flags, length)
        for part in parsed(path)
        for frame, *ends, seq, ack, flags, length in zip(*(getattr(part.tcp, c).tolist() for c in columns), strict=True)
    ]
    rows = tshark(path, ("frame.number", *ADDRESSES, *TCP_FIELDS), f"tcp.port == {RDS_PORT}")
    theirs = [(int(row[0]), *ends_of(row), *(int(number, 0) for number in row[5:])) for row in rows]
    assert ours == theirs


@pytest.mark.parametrize("path", INFINIBAND, ids=lambda path: path.parent.name)
def test_infiniband_packets_are_those_that_tshark_sees(path: Path) -> None:
    ours = []
    for part in parsed(path):
        packets = part.ib
        for row in range(len(packets)):
            bth = packets.data[packets.bth[row] : packets.bth[row] + BTH_BYTES].tobytes()
            opcode, queue_pair, psn = bth[0], int.from_bytes(bth[5:8], "big"), int.from_bytes(bth[9:12], "big")
            ends = (
                text(int(packets.src_hi[row]), int(packets.src_lo[row])),
                text(int(packets.dst_hi[row]), int(packets.dst_lo[row])),
            )
            ours.append((int(packets.frame[row]), *ends, opcode, queue_pair, psn, int(packets.length[row])))
    rows = tshark(path, ("frame.number", *ADDRESSES, *BTH_FIELDS, "udp.length"), "infiniband")
    # UDP's own 8 bytes, the BTH and the invariant CRC make up the rest of its length.
    around = 8 + BTH_BYTES + 4
    theirs = [(int(row[0]), *ends_of(row), *(int(n, 0) for n in row[5:8]), int(row[8]) - around) for row in rows]
    assert ours == theirs


@pytest.mark.parametrize("path", [TCP[0], PCAPS / "tcp-lossy-61" / "a.pcap.gz"], ids=lambda path: path.parent.name)
def test_grown_captures_have_the_losses_of_their_source_and_no_others(path: Path, tmp_path: Path) -> None:
    copies = 3
    larger = tmp_path / "grown.pcap"
    with larger.open("wb") as output:
        assert grow(path, output, (copies - 1) * len(gzip.decompress(path.read_bytes())) + 1000, 2) == copies
    analysis = ("tcp.analysis.retransmission", "tcp.analysis.lost_segment", "tcp.analysis.out_of_order")
    fields = (*analysis, "ip.checksum.status", "tcp.checksum.status")
    checked = ("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE")
    source = Counter(tshark(path, fields, "tcp", *checked))
    assert Counter(tshark(larger, fields, "tcp", *checked)) == {row: count * copies for row, count in source.items()}
    assert {row[3:] for row in source} == {("1", "1")}
