"""What a real kernel sent to another one over InfiniBand, sent to a node instead: it gets what the kernel got."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest

from dissectors.wire.rds import FRAGMENT_BYTES, RDS_HEADER
from rdstool.capture.pipeline import CaptureOptions, open_capture
from rdstool.protocol.control import RdmaDest
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.private import Greeting
from rdstool.protocol.node import Node
from tests.unit.protocol.ib.driving import frame_of, make_node

PCAPS = Path(__file__).parents[4] / "pcaps"
Received = dict[int, dict[tuple[str, int], list[str]]]
"""Digests that a port received from each sender, in order."""


def from_kernel(path: Path, receiver: str, node: Node) -> int:
    """Give the node what its peer sent, connection by connection, frame by frame; gives how many acknowledgements."""
    links: dict[int, IbLink] = {}
    acknowledged = 0
    with open_capture(path, CaptureOptions(payloads=True)) as capture:
        for message in capture:
            if message.dst != receiver or not message.complete:
                continue
            link = links.get(message.stream)
            if link is None:
                for number in list(links):
                    node.connection_lost(links.pop(number), "replaced", node.now)
                found = node.ib.requested(receiver, message.src, Greeting(message.src, receiver).pack(), node.now)
                assert found is not None
                link = links[message.stream] = found
                node.ib.receives_to_post(link)
                node.ib.established(link, b"", node.now)
            payload = message.payload or b""
            header = RDS_HEADER.pack(message.header)
            for at in range(0, max(1, len(payload)), FRAGMENT_BYTES):
                node.ib.frames_received(link, [header + payload[at : at + FRAGMENT_BYTES]], node.now)
            for work in node.ib.work_to_post(link):
                acknowledged = max(acknowledged, frame_of(work).header.ack)
                node.ib.work_completed(link, work.id, 0, node.now)
            assert not link.deaf
    return acknowledged


@pytest.mark.parametrize(
    "name",
    [
        "ib-basic-61",
        "ib-basic-73",
        "ib-rdma-61",
        "ib-rdma-73",
        "ib-reconnect-61",
        "ib-reconnect-612",
        "ib-reconnect-73",
    ],
)
@pytest.mark.parametrize(("file", "end"), [("a", "B"), ("b", "A")])
def test_sockets_receive_what_the_kernels_sockets_did(name: str, file: str, end: str) -> None:
    truth = json.loads((PCAPS / name / "truth.json").read_text())
    (receiver,) = truth["ends"][end]
    node = make_node(receiver, rcvbuf=1 << 24)
    expected: Received = {}
    for item in truth["sockets"]:
        if item["ip"] == receiver:
            node.socket().bind(receiver, item["port"])
            flows = expected[item["port"]] = defaultdict(list)
            for got in item["received"]:
                if got["sport"]:
                    flows[got["src"], got["sport"]].append(got["sha256"])
    assert from_kernel(PCAPS / name / f"{file}.pcap.gz", receiver, node) > 0
    received: Received = {}
    offers = 0
    for port, socket in node.ports[receiver].items():
        flows = received[port] = defaultdict(list)
        while socket.received:
            message = socket.recvmsg(now=node.now)
            offers += any(isinstance(item, RdmaDest) for item in message.control)
            if message.port:
                flows[message.address, message.port].append(hashlib.sha256(message.data).hexdigest())
    assert received == expected
    assert sum(len(digests) for flows in expected.values() for digests in flows.values()) >= 20
    assert (offers > 0) is ("rdma" in name and end == "A")
