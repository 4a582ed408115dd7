"""What a node writes of its own traffic is a capture like any other."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

import rdstool
from dissectors.wire.rds import RDS_HEADER, RdsHeader
from rdstool.endpoint.recorder import Recorder, Recording
from rdstool.errors import TransportError
from rdstool.protocol.kinds import MessageKind
from rdstool.validate.validator import validate
from tests.kit.loopback import own_addresses


async def test_a_recorded_exchange_decodes_to_what_was_sent_and_breaks_no_rule(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    path = tmp_path / "node.pcapng"
    sizes = [0, 1, 48, 5000, 70_000, 200_000]
    settings = rdstool.Settings(sndbuf=1 << 20, rcvbuf=1 << 20)
    async with (
        rdstool.Node(small, options=rdstool.NodeOptions(settings, pcap=path)) as one,
        rdstool.Node(large, options=rdstool.NodeOptions(settings)) as other,
    ):
        here, there = one.socket(4000), other.socket(4000)
        for size in sizes:
            await here.sendto(bytes(size), there.getsockname())
            data, sender = await there.recvfrom()
            await there.sendto(data, sender)
            await here.recv()
        await there.drain()
    with rdstool.open_capture(path) as capture:
        told = [message for message in capture if message.kind is MessageKind.DATA]
    assert [message.length for message in told if message.src == small] == sizes
    assert [message.length for message in told if message.src == large] == sizes
    assert all(message.complete for message in told)
    with rdstool.open_capture(path) as capture:
        assert list(validate(capture)) == []


def test_a_connection_on_the_ports_of_an_earlier_one_is_another(tmp_path: Path) -> None:
    """A host that boots anew may begin with the same ports."""
    path = tmp_path / "node.pcapng"
    writer = Recording(path)
    clock = count(1_000_000_000_000_000_000, 1_000_000)
    recorder = Recorder(lambda: next(clock))
    recorder.takers.append(writer.frame)
    for key in range(2):
        recorder.opened(key, ("10.0.0.2", 16385), ("10.0.0.1", 32776), incoming=True)
        for sequence in range(1, 4):
            header = RdsHeader(sequence=sequence, length=100, sport=4000 + key, dport=5000)
            recorder.received(key, RDS_HEADER.pack(header) + bytes(100))
        recorder.closed(key, reset=True, by_peer=True)
    writer.close()
    with rdstool.open_capture(path) as capture:
        told = [(message.stream, message.sequence, message.sport) for message in capture]
    assert told == [(key, sequence, 4000 + key) for key in range(2) for sequence in range(1, 4)]


async def test_a_file_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    (address,) = own_addresses(1)
    with pytest.raises(TransportError, match="cannot be written"):
        await rdstool.Node(address, options=rdstool.NodeOptions(pcap=tmp_path / "no" / "x.pcapng")).start()
