"""What a real kernel sent to another one, sent to a node instead: its sockets get what the kernel's sockets got."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest

from dissectors.wire.rds import RDS_HEADER
from rdstool.capture.pipeline import CaptureOptions, open_capture
from rdstool.protocol.addresses import rank
from rdstool.protocol.link import Link
from rdstool.protocol.node import Node

PCAPS = Path(__file__).parents[3] / "pcaps"
Received = dict[int, dict[tuple[str, int], list[str]]]
"""Digests that a port received from each sender, in order."""


def from_kernel(path: Path, receiver: str, node: Node) -> None:
    """Give the node what the smaller address sent, TCP connection by TCP connection, piece by piece."""
    links: dict[int, Link] = {}
    random = Random(1)
    with open_capture(path, CaptureOptions(payloads=True)) as capture:
        for message in capture:
            if message.dst != receiver or not message.complete:
                continue
            link = links.get(message.stream)
            if link is None:
                port = capture.streams[message.stream].a.port
                for number, old in list(links.items()):
                    # Kernels from 7.0 number source ports by path: an older one of the same path is dead.
                    if old.peer_port is not None and old.peer_port % 8 == port % 8:
                        node.connection_lost(links.pop(number), "replaced", node.now)
                link = node.accepted(receiver, message.src, port, node.now)
                assert link is not None
                links[message.stream] = link
            data = RDS_HEADER.pack(message.header) + (message.payload or b"")
            split = random.randrange(len(data))
            for piece in (data[:split], data[split:]):
                node.bytes_received(link, piece, node.now)
            node.data_to_send(link, 1 << 30)
            node.bytes_acked(link, link.sent, node.now)
            assert not link.deaf


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tcp-basic-61", "b"),
        ("tcp-basic-73", "b"),
        ("tcp-basic-73", "a"),
        ("tcp-ipv6-73", "b"),
        ("tcp-congestion-73", "b"),
        ("tcp-cut-73", "b"),
        ("tcp-restart-73", "b"),
    ],
)
def test_sockets_receive_what_the_kernels_sockets_did(name: str, file: str) -> None:
    truth = json.loads((PCAPS / name / "truth.json").read_text())
    receiver = max((address for ends in truth["ends"].values() for address in ends), key=rank)
    node = Node(receiver, random=Random(1))
    expected: Received = {}
    for item in truth["sockets"]:
        if item["ip"] == receiver:
            socket = node.socket()
            socket.bind(receiver, item["port"])
            flows = expected[item["port"]] = defaultdict(list)
            for got in item["received"]:
                if got["sport"]:
                    flows[got["src"], got["sport"]].append(got["sha256"])
    from_kernel(PCAPS / name / f"{file}.pcap.gz", receiver, node)
    received: Received = {}
    for port, socket in node.ports[receiver].items():
        flows = received[port] = defaultdict(list)
        while socket.received:
            message = socket.recvmsg(now=node.now)
            if message.port:
                flows[message.address, message.port].append(hashlib.sha256(message.data).hexdigest())
    assert received == expected
    assert sum(len(digests) for flows in expected.values() for digests in flows.values()) > 40
