"""What becomes of a node's events in the log: one line for each that somebody who debugs would look for."""

from __future__ import annotations

import logging

from rdstool.protocol import events
from rdstool.protocol.reasons import DropReason

LOGGER = logging.getLogger("rdstool.node")

_USUAL = {DropReason.LOST, DropReason.CLOSED, DropReason.LARGER_SIDE_DIALLED, DropReason.MISPLACED, DropReason.REPLACED}


def log(event: events.Event) -> None:
    """Write an event to the logger ``rdstool.node``: what a peer did wrong as a warning, the rest as information."""
    told = describe(event)
    if told is not None:
        LOGGER.log(*told)


def describe(event: events.Event) -> tuple[int, str] | None:
    """The level and the line of an event; None for those that come with every message."""
    level, text = logging.INFO, ""
    match event:
        case events.PathUp():
            how = "connected to us" if event.incoming else "connected"
            text = f"{event.local} > {event.peer} path {event.path}: {how}"
        case events.PathDown():
            level = logging.INFO if event.reason in _USUAL else logging.WARNING
            why = f"{event.reason.value}{f' ({event.detail})' if event.detail else ''}"
            again = f", {event.requeued} messages to be sent again" if event.requeued else ""
            text = f"{event.local} > {event.peer} path {event.path}: down, {why}{again}"
        case events.ConnectFailed():
            text = f"{event.local} > {event.peer} path {event.path}: attempt {event.attempt} failed, {event.detail}"
        case events.ConnectionRefused():
            text = f"{event.local}: refused a connection of {event.peer}: {event.reason.value}"
        case events.PeerForgotten():
            level = logging.INFO if event.remembered else logging.WARNING
            why = "it has been away longest" if event.remembered else "it never sent a message"
            text = f"{event.local} > {event.peer}: forgotten, {why}, and another peer needed the place"
        case events.PathsAgreed():
            text = f"{event.local} > {event.peer}: {event.npaths} paths, generation {event.gen_num:#x}"
        case events.PeerRestarted():
            text = (
                f"{event.local} > {event.peer}: the peer was restarted "
                f"(generation {event.old_gen_num:#x}, now {event.new_gen_num:#x})"
            )
        case events.MessagesDropped():
            level = logging.WARNING
            text = (
                f"{event.local} > {event.peer} path {event.path}: {event.count} messages are not sent again, "
                "they may have reached the peer before it was restarted"
            )
        case events.PortCongested():
            text = f"{event.address}:{event.port}: {'congested' if event.congested else 'free again'}"
        case _:
            pass
    return (level, text) if text else None
