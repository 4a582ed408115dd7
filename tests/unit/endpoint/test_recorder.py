"""What a node writes of its own traffic is a capture like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

import rdstool
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


async def test_a_file_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    (address,) = own_addresses(1)
    with pytest.raises(TransportError, match="cannot be written"):
        await rdstool.Node(address, options=rdstool.NodeOptions(pcap=tmp_path / "no" / "x.pcapng")).start()
