"""Answers to messages for port 0 (protocol.md §6)."""

from __future__ import annotations

from rdstool.protocol.base_connection import BaseConnection
from rdstool.protocol.lane import Lane
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.reasons import DropReason


def answer_ping(connection: BaseConnection, lane: Lane, port: int, exthdr: bytes, now: float) -> None:
    """Queue a pong to ``port`` on the lane that the ping came on."""
    node = connection.node
    node.counters.recv_ping += 1
    if connection.congested(port):
        return
    limit = node.settings.limits.pongs
    if len(lane.control) >= limit:
        node.counters.dropped_ping_flood += 1
        lane.drop(DropReason.TOO_MANY_PINGS, f"{limit} answers wait", now, abort=True)
        return
    node.counters.send_queued += 1
    node.counters.send_pong += 1
    lane.control.append(Outgoing(None, 0, port, exthdr=exthdr))
    lane.wake()
