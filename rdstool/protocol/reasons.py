"""Why connections, messages and attempts end."""

from __future__ import annotations

from enum import Enum, IntEnum


class DropReason(Enum):
    """Why a connection is given up. The value is the text for people."""

    LOST = "the connection ended"
    DIAL_FAILED = "the peer could not be reached"
    LARGER_SIDE_DIALLED = "the smaller address is to connect, it has been asked to"
    REPLACED = "the peer connected first"
    MISPLACED = "its source port belongs to another path"
    PEER_RESTARTED = "the peer was restarted"
    UNANSWERED = "the peer has never answered on it"
    OVERSIZED_MESSAGE = "the peer announced a longer message than allowed"
    TOO_MANY_PINGS = "the peer sent too many pings without reading the answers"
    FORGOTTEN = "the peer never sent a message, and another one needed the place"
    CLOSED = "this node was closed"

    # Over InfiniBand.
    RECEIVE_OVERRUN = "the peer sent on far beyond a socket's receive buffer"
    VERSION = "the peer speaks another version"
    ASKED_ANEW = "the peer asks for a new connection"
    BAD_CHECKSUM = "a header's checksum is wrong"
    BAD_FRAGMENT = "a fragment does not fit the one before it"
    UNFINISHED_MESSAGE = "messages that never end took too much room, and its own has waited longest"
    WORK_FAILED = "a work request failed"


class RefuseReason(Enum):
    """Why an incoming connection is not taken."""

    OWN_ADDRESS = "it comes from this node's own address"
    NOT_OURS = "it is for an address that this node does not own"
    LARGER_SIDE = "the larger address does not connect; it has been asked to wait"
    TOO_MANY_WAITING = "too many connections of this peer wait for a free path"
    TOO_MANY_CONNECTIONS = "this node has too many peers"
    CLOSED = "this node is closed"

    # Over InfiniBand.
    VERSION = "it does not speak a version of RDS that is known here"
    FALSE_ADDRESS = "it speaks for another address than its own"
    CROSSED = "our own request is under way; both try again"
    STILL_UP = "the connection before it has not ended; it is to try again"


class SendStatus(IntEnum):
    """How a message that was sent ended; the kernel's numbers of ``rds_rdma_notify`` (protocol.md §9.2)."""

    ACKNOWLEDGED = 0
    REMOTE_ERROR = 1
    """The peer's memory refused: wrong key, bounds or rights."""
    CANCELED = 2
    DROPPED = 3
    OTHER_ERROR = 4
