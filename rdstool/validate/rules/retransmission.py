"""RDS-RTX: the flag RETRANSMITTED within one connection. RTX-001 and 002 span connections: see ``delivery``."""

from __future__ import annotations

import numpy as np

from dissectors.wire.extensions import Rdma
from dissectors.wire.rds import Flags
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.parsed import extensions_at
from rdstool.validate.rule import BOTH, IB, NOTE, WARNING, Rule

PLACE = Rule(
    "RDS-RTX-003",
    WARNING,
    "A retransmitted message stands behind new ones, or out of order",
    BOTH,
    "4.6, 7.8",
    "net/rds/send.c",
    "After a reconnect everything unacknowledged is put back in front of what was never sent, in its order.",
    "If the number is below what the receiver expects it drops the message as a duplicate, although it may never have "
    "had it.",
    "Look for the message's first copy: if it was not acknowledged, it is lost.",
    unbroken=True,
)
ACK_REQUIRED = Rule(
    "RDS-RTX-004",
    WARNING,
    "A retransmitted message does not ask for an acknowledgement",
    IB,
    "7.8",
    "net/rds/send.c",
    "Over InfiniBand resent messages carry ACK_REQUIRED | RETRANSMITTED, 0x06.",
    "The receiver accepts the message and may acknowledge late.",
    "Check the sender.",
)
WITH_RDMA = Rule(
    "RDS-RTX-005",
    WARNING,
    "A retransmitted message announces RDMA work",
    IB,
    "7.8",
    "net/rds/send.c",
    "Messages with an RDMA operation are never resent: they are dropped and their sender is notified.",
    "The receiver releases the memory region again; the data behind it may be of another use by then.",
    "Check the sender: the operation may have run twice.",
)
FIRST_CONNECTION = Rule(
    "RDS-RTX-006",
    NOTE,
    "RETRANSMITTED on the first connection of two addresses",
    BOTH,
    "4.6",
    "net/rds/send.c",
    "The flag is set when a connection is made again. On the first one, whose numbering starts at 1, nothing can have "
    "been sent before.",
    "Accepted: its number is not below what the receiver expects.",
    "Usual only where an earlier connection failed before the capture began.",
)


class RetransmissionCheck(Check):
    """Looks at flagged rows; most captures have none."""

    rules = (PLACE, ACK_REQUIRED, WITH_RDMA, FIRST_CONNECTION)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._told: set[int] = set()

    def feed(self, batch: Batch) -> None:
        """Look at each flow's flagged rows."""
        view, rows = batch.view, batch.numbered
        places = np.flatnonzero(rows.flagged)
        if not len(places):
            return
        sequence = view.sequence
        joined = rows.joined[places]
        late = joined & rows.after_new[places]
        self.report.rows(
            PLACE,
            view,
            rows.index[places[late]],
            lambda i: f"sequence {sequence[i]} is flagged, but new messages came before it on this connection",
        )
        unordered = joined & ~rows.after_new[places] & (rows.sequence[places] <= rows.previous[places])
        self.report.rows(
            PLACE,
            view,
            rows.index[places[unordered]],
            lambda i: f"sequence {sequence[i]} is resent behind a higher one",
        )
        indices = rows.index[places]
        asks = (view.flags[indices] & Flags.ACK_REQUIRED) != 0
        silent = indices[~asks & view.ib[indices]]
        self.report.rows(ACK_REQUIRED, view, silent, lambda i: f"flags are 0x{view.flags[i]:02x}")
        announced = indices[view.extended[indices] & view.ib[indices]].tolist()
        with_rdma = [i for i in announced if any(isinstance(x, Rdma) for x in extensions_at(view, i).items)]
        self.report.rows(WITH_RDMA, view, with_rdma, lambda i: f"sequence {sequence[i]} is resent with RDMA")
        self._first_connection(batch, places)

    def _first_connection(self, batch: Batch, places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        rows = batch.numbered
        flows, first = np.unique(rows.flow[places], return_index=True)
        for flow, place in zip(flows.tolist(), places[first].tolist(), strict=True):
            stream = self.context.streams[flow >> 1]
            fresh = stream.from_start and int(rows.first[place]) == 1 and rows.segment[place] == 0
            if flow not in self._told and fresh and self.context.connections.is_first(stream):
                self._told.add(flow)
                self.report.rows(
                    FIRST_CONNECTION,
                    batch.view,
                    [int(rows.index[place])],
                    lambda i: f"sequence {batch.view.sequence[i]} is flagged; numbering began at 1 on this connection",
                )
