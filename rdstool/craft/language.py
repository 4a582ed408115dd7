"""Which words a scenario may use, over TCP and over InfiniBand."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from dissectors.wire.cm import RDS_PRIVATE_V4
from dissectors.wire.infiniband import AETH, ATOMIC_ETH, BTH, RETH
from rdstool.craft.build import BYTES_KEYS, HEADER_FIELDS, PAYLOAD_KEYS
from rdstool.craft.scenario import (
    ACCEPTED,
    BROKEN,
    CLOSED,
    CONNECTION,
    CROWD,
    DONE,
    EXTENSION_FIELDS,
    MESSAGES,
    NAK,
    REJECTED,
    RESET,
    SILENCE,
    UNANSWERED,
    Action,
)
from rdstool.protocol.kinds import MessageKind, Transport

OUT, IN = "->", "<-"
COMMON = frozenset({OUT, "path", "after"})
REPEATED = frozenset({"count", "every"})
PRIVATE_FIELDS = frozenset(field.name for field in RDS_PRIVATE_V4.table.fields)
"""Of the private data of RDS, which both ends tell when a connection is made."""
PACKET_FIELDS = frozenset(field.name for codec in (BTH, RETH, ATOMIC_ETH, AETH) for field in codec.table.fields)


@dataclass(frozen=True, slots=True)
class Language:
    """What may be said where a transport carries the scenario."""

    keys: Mapping[Action, Set[str]]
    """What each action takes."""
    outcomes: Set[str]
    """Values of ``"<-"``."""
    messages: Set[str]
    """Those of them that have fields."""
    compared: Set[str]
    """Fields that can be expected."""


_MESSAGE = HEADER_FIELDS | set(PAYLOAD_KEYS) | {"cut"} | REPEATED | COMMON
_COMPARED = HEADER_FIELDS - {"padding", "exthdr"}
_KINDS = frozenset(kind.label for kind in MessageKind)
_REMOTE = COMMON | REPEATED | {"rkey", "address"}

_TCP_MESSAGES = _KINDS - {MessageKind.ACK.label}
_TCP = Language(
    keys={
        **dict.fromkeys(MESSAGES, _MESSAGE | {"chunk"}),
        Action.CONGESTION: _MESSAGE | {"chunk", "congested"},
        Action.BYTES: COMMON | REPEATED | {"chunk", "seed", *BYTES_KEYS},
        Action.CONNECT: COMMON | {"reading", "source_path"},
        Action.CROWD: COMMON | {"count"},
        Action.FINISH: COMMON,
        Action.RESET: COMMON,
        Action.WAIT: COMMON,
    },
    outcomes=_TCP_MESSAGES | {CLOSED, RESET, SILENCE, CONNECTION, CROWD},
    messages=_TCP_MESSAGES,
    compared=_COMPARED | EXTENSION_FIELDS,
)
_IB_MESSAGES = _KINDS - {MessageKind.PROBE.label, MessageKind.PROBE_REPLY.label} | {ACCEPTED, REJECTED, NAK, DONE}
_IB = Language(
    keys={
        **dict.fromkeys(MESSAGES - {Action.PROBE, Action.PROBE_REPLY}, _MESSAGE | {"fragments"}),
        Action.CONGESTION: _MESSAGE | {"fragments", "congested"},
        Action.BYTES: COMMON | REPEATED | {"seed", *BYTES_KEYS},
        Action.CONNECT: COMMON | PRIVATE_FIELDS | {"private_size", "private_hex"},
        Action.CROWD: COMMON | {"count"},
        Action.WRITE: _REMOTE | {"size"},
        Action.READ: _REMOTE | {"size"},
        Action.FETCH_ADD: _REMOTE | {"add"},
        Action.COMPARE_SWAP: _REMOTE | {"compare", "swap"},
        Action.PACKET: _MESSAGE - {"cut"} | PACKET_FIELDS | {"carries", "ahead", "icrc"},
        Action.FINISH: COMMON,
        Action.WAIT: COMMON,
    },
    outcomes=_IB_MESSAGES | {CLOSED, UNANSWERED, BROKEN, SILENCE, CROWD},
    messages=_IB_MESSAGES,
    compared=_COMPARED
    | PRIVATE_FIELDS - {"saddr", "daddr", "reserved", "tail"}
    | {"reason", "code", "syndrome", "psn", "value"},
)
LANGUAGES = {Transport.TCP: _TCP, Transport.IB: _IB}
