"""RDS-RDM: operations on remote memory, and the messages that announce them."""

from __future__ import annotations

import numpy as np

from dissectors.wire.extensions import Rdma, RdmaBytes, RdmaDest, RdmaDirection
from dissectors.wire.rds import MAX_MESSAGE_BYTES
from rdstool.capture.events import RdmaKind, RdmaOperation
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.parsed import extensions_at
from rdstool.validate.rule import IB, NOTE, WARNING, Rule
from rdstool.validate.view import View

_SOURCE = "net/rds/rdma.c, ib_send.c"
PAGE_BYTES = 4096
MAX_KEYS = 65536
"""Keys that are remembered of one host pair's direction; the oldest are forgotten."""
_DIRECTIONS = {RdmaKind.WRITE: RdmaDirection.WRITE, RdmaKind.READ: RdmaDirection.READ}

NO_WORK = Rule(
    "RDS-RDM-001",
    WARNING,
    "A message announces RDMA work that was not done",
    IB,
    "8.1",
    _SOURCE,
    "A message with the extension header RDMA follows directly behind the operation with that R_Key.",
    "The receiver releases the memory region and hands the message on as proof that the data are there.",
    "The application reads memory that was never written. Check the sender.",
    unbroken=True,
)
AMOUNT = Rule(
    "RDS-RDM-002",
    WARNING,
    "RDMA_BYTES is not the length of the operation",
    IB,
    "8.1",
    _SOURCE,
    "It is the sum of the operations that the message announces.",
    "Mainline ignores the value; counters of other kernels use it.",
    "Check the sender.",
    unbroken=True,
)
DIRECTION = Rule(
    "RDS-RDM-003",
    WARNING,
    "RDMA_BYTES names the wrong direction",
    IB,
    "8.1",
    _SOURCE,
    "1 stands for a write, 2 for a read by the sender of the message.",
    "Mainline ignores the value.",
    "Check the sender.",
    unbroken=True,
)
UNKNOWN_KEY = Rule(
    "RDS-RDM-004",
    NOTE,
    "An operation uses a key that the peer did not offer",
    IB,
    "8.1",
    _SOURCE,
    "Keys are offered by the extension header RDMA_DEST; an application may also pass one on in its payload.",
    "The adapter checks the key: an unknown one breaks the connection.",
    "Usual where a cached key is used again after the capture began.",
    unbroken=True,
)
TOO_LONG = Rule(
    "RDS-RDM-005",
    WARNING,
    "An RDMA operation is longer than 1 MiB",
    IB,
    "8.1, 8.3",
    _SOURCE,
    "Sender and memory regions are limited to 1 MiB.",
    "No kernel maps more; the adapter refuses what lies outside of the region.",
    "Check the sender.",
)
OFFSET = Rule(
    "RDS-RDM-006",
    NOTE,
    "The offset of offered memory is not within a page",
    IB,
    "8.1",
    _SOURCE,
    "The offset is the start address modulo the page size, 4096 on most machines.",
    "It is added to the address of each operation.",
    "Normal on machines with larger pages (arm64, ppc64).",
)


class RdmaCheck(Check):
    """Looks at operations and at what announces them."""

    rules = (NO_WORK, AMOUNT, DIRECTION, UNKNOWN_KEY, TOO_LONG, OFFSET)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._offered: dict[int, dict[int, None]] = {}
        """Keys that were offered, by the flow of the offer."""

    def feed(self, batch: Batch) -> None:
        """Messages first: a key is offered before it is used."""
        view = batch.view
        if view.count and view.any_ib:
            flow_known = np.zeros(view.count, np.bool_)
            rows = batch.numbered
            flow_known[rows.index] = rows.joined | (rows.opens & (rows.segment == 0))
            for row in np.flatnonzero(view.extended & view.ib).tolist():
                self._message(view, row, joined=bool(flow_known[row]))
        for event in view.decoded.events:
            if isinstance(event, RdmaOperation):
                self._operation(event)

    def _message(self, view: View, row: int, *, joined: bool) -> None:
        items = extensions_at(view, row).items
        work = view.decoded.messages.rdma.get(row, ())
        keys = [item.rkey for item in items if isinstance(item, Rdma)]
        if keys and not work and joined:
            self.report.row(NO_WORK, view, row, f"R_Key 0x{keys[0]:08x}, but no operation came before it")
        joined = joined and not any(operation.cut for operation in work)
        total = sum(operation.length for operation in work)
        if work and total > MAX_MESSAGE_BYTES:
            self.report.row(TOO_LONG, view, row, f"{total} bytes in {len(work)} operations")
        for item in items:
            if isinstance(item, RdmaBytes) and work and keys and joined:
                if item.length != total:
                    text = f"RDMA_BYTES is {item.length}, the operations moved {total} bytes"
                    self.report.row(AMOUNT, view, row, text)
                moves = {_DIRECTIONS[one.kind] for one in work if one.kind in _DIRECTIONS}
                if moves and item.direction in list(RdmaDirection) and item.direction not in moves:
                    said = RdmaDirection(item.direction).name
                    text = f"RDMA_BYTES says {said}, the operation was a {work[0].kind.value}"
                    self.report.row(DIRECTION, view, row, text)
            elif isinstance(item, RdmaDest):
                self._offer(int(view.flow[row]), item.rkey)
                if item.offset >= PAGE_BYTES:
                    text = f"offset is {item.offset}"
                    self.report.row(OFFSET, view, row, text)

    def _offer(self, flow: int, rkey: int) -> None:
        keys = self._offered.setdefault(flow, {})
        keys[rkey] = None
        if len(keys) > MAX_KEYS:
            del keys[next(iter(keys))]

    def _operation(self, event: RdmaOperation) -> None:
        offers = 2 * event.stream + 1 - event.direction
        stream = self.context.streams[event.stream]
        whole = stream.from_start and self.context.continuity.whole(offers)
        fresh = self.context.connections.is_first(stream)
        if whole and fresh and not event.cut and event.rkey not in self._offered.get(offers, {}):
            self.report.at(
                UNKNOWN_KEY,
                f"{event.kind.value} with R_Key 0x{event.rkey:08x}",
                event.first_frame,
                event.time,
                stream=event.stream,
            )
