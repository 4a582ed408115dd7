"""RDS-FRG and RDS-CRD-003: the InfiniBand frames that messages are cut into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import FRAGMENT_BYTES
from rdstool.capture.columns import HeaderMatch, Ints
from rdstool.protocol.kinds import MessageKind
from rdstool.validate.check import Batch, Check
from rdstool.validate.rule import ERROR, IB, NOTE, WARNING, Rule
from rdstool.validate.view import Mask, View

_SOURCE = "net/rds/ib_recv.c, ib_send.c"
LONGEST_FRAGMENT = 16384
"""Data bytes of a fragment between two Oracle kernels (UEK) at version 4.1."""
_UEK_SIZES = (2 * FRAGMENT_BYTES, LONGEST_FRAGMENT)

OPCODE = Rule(
    "RDS-FRG-001",
    ERROR,
    "A frame was sent with immediate data or with invalidate",
    IB,
    "7.4",
    _SOURCE,
    "RDS uses plain SEND operations only.",
    "The receiver reads the frame, but nobody looks at the immediate data; an invalidated key breaks RDMA.",
    "Check the sender: it is not a Linux RDS.",
)
TOO_LONG = Rule(
    "RDS-FRG-002",
    ERROR,
    "A frame holds more data than a fragment",
    IB,
    "7.4, 7.2",
    _SOURCE,
    "Fragments hold at most 4096 bytes behind the header; between two Oracle kernels (UEK) 8192 or 16384.",
    "The receive buffer is too short: the adapter breaks the connection.",
    "Check the fragment size that both sides agreed on.",
)
SIZE = Rule(
    "RDS-FRG-003",
    ERROR,
    "A fragment is shorter or longer than it has to be",
    IB,
    "7.4",
    _SOURCE,
    "Every fragment but the last is full; the last holds exactly the rest.",
    "7.3 drops the connection on a short fragment; older kernels leave old memory in the message.",
    "Check the sender's fragmentation.",
    unbroken=True,
)
FOREIGN = Rule(
    "RDS-FRG-004",
    ERROR,
    "A fragment does not belong to the message under way",
    IB,
    "7.4",
    _SOURCE,
    "Continuations repeat sequence, length and ports of the first fragment. Only ack-only frames may stand between.",
    "The receiver drops the connection; both messages are sent again.",
    "Messages must not be interleaved on a queue pair: check the sender.",
    unbroken=True,
)
DIFFERS = Rule(
    "RDS-FRG-005",
    WARNING,
    "A continuation's header differs from the first fragment's",
    IB,
    "7.4",
    _SOURCE,
    "All fragments carry the same header but for h_credit and h_csum.",
    "Only the first fragment's header counts; ack, credit and checksum are taken from each.",
    "Check the sender.",
    unbroken=True,
)
SOLICITED = Rule(
    "RDS-FRG-006",
    NOTE,
    "The solicited-event bit is not on the last fragment alone",
    IB,
    "7.4",
    "net/rds/ib_send.c",
    "SE is set on the last fragment of a message and on ack-only frames, and on a fragment where flow control stalls.",
    "The receiver may be woken late, or too often.",
    "Nothing is lost; another implementation is at work.",
)
CREDIT_PLACE = Rule(
    "RDS-CRD-003",
    NOTE,
    "Credits are granted on fragment after fragment",
    IB,
    "7.6",
    "net/rds/ib_send.c",
    "Credits travel on ack-only frames and on the first fragment of a batch, not on each.",
    "The receiver adds all of them up.",
    "Nothing is wrong by itself; another implementation is at work.",
)


class FragmentCheck(Check):
    """Looks at fragments as columns."""

    rules = (OPCODE, TOO_LONG, SIZE, FOREIGN, DIFFERS, SOLICITED, CREDIT_PLACE)

    def feed(self, batch: Batch) -> None:
        """Only InfiniBand has fragments."""
        view, all_rows = batch.view, batch.view.decoded.fragments
        if not len(all_rows):
            return
        from dissectors.wire.infiniband import Opcode  # noqa: PLC0415 - most captures have no fragments

        sends = (Opcode.SEND_FIRST, Opcode.SEND_MIDDLE, Opcode.SEND_LAST, Opcode.SEND_ONLY)
        plain = np.isin(all_rows["opcode"], sends)
        self._say(OPCODE, view, all_rows, ~plain, lambda row: f"opcode 0x{int(row['opcode']):02x}")
        rows = all_rows[all_rows["message"] >= 0]
        if not len(rows):
            return
        owner = rows["message"].astype(np.int64)
        data, length = rows["data"], view.length[owner]
        begins = np.ones(len(rows), np.bool_)
        begins[1:] = owner[1:] != owner[:-1]
        at = np.flatnonzero(begins)
        fragment = self._sizes(data, at)
        long = data > fragment
        self._say(TOO_LONG, view, rows, long, lambda row: f"{int(row['data'])} bytes of data in a fragment")
        sure = (view.rows["complete"] & ~view.rows["inferred"])[owner]
        match = rows["header_match"]
        self._say(FOREIGN, view, rows, match == HeaderMatch.FOREIGN, lambda row: f"fragment {int(row['index']) + 1}")
        self._say(DIFFERS, view, rows, match == HeaderMatch.OTHER, lambda row: f"fragment {int(row['index']) + 1}")
        sizes = np.diff(np.append(at, len(rows)))
        # Behind a packet that is missing, or a frame cut so short that it has no row, it is not known what is due.
        lacks = np.cumsum(~rows["joined"] | (rows["index"] != np.arange(len(rows)) - np.repeat(at, sizes)))
        follows = lacks == np.repeat(lacks[at] - ~rows["joined"][at], sizes)
        total = np.cumsum(data)
        before = total - data - np.repeat((total - data)[at], sizes)
        due = np.clip(length - before, 0, fragment)
        wrong = ~long & (data != due) & follows & ~view.rows["inferred"][owner] & (match != HeaderMatch.FOREIGN)
        wrong &= (data != 0) | (due != 0)
        wrong &= _first_only(wrong, owner)
        self._say(SIZE, view, rows, wrong, lambda row: f"fragment {int(row['index']) + 1} has {int(row['data'])} bytes")
        ends = np.append(begins[1:], True)
        steady = (view.kind[owner] != MessageKind.HEARTBEAT) & (view.credit[owner] == 0) & (rows["credit"] == 0)
        odd = sure & steady & (rows["solicited"] != ends)
        self._say(SOLICITED, view, rows, odd, lambda row: "SE is set early" if row["solicited"] else "SE is clear")
        credit = rows["credit"] != 0
        again = np.zeros(len(rows), np.bool_)
        again[1:] = credit[1:] & credit[:-1] & ~begins[1:]
        again &= _first_only(again, owner)
        self._say(CREDIT_PLACE, view, rows, again, lambda row: f"fragment {int(row['index']) + 1} grants again")

    @staticmethod
    def _sizes(data: Ints, at: Ints) -> Ints:
        """Fragment size of each row's message: 4096, or what its first fragment shows of an agreement between UEKs."""
        first = data[at]
        size = np.where(np.isin(first, _UEK_SIZES), first, FRAGMENT_BYTES)
        return np.repeat(size, np.diff(np.append(at, len(data)))).astype(np.int64)

    def _say(self, rule: Rule, view: View, rows: NDArray[Any], found: Mask, describe: Callable[[Any], str]) -> None:
        if not found.any() or not self.report.wants(rule):
            return
        for row in rows[found]:
            message = int(row["message"])
            known = message >= 0
            self.report.at(
                rule,
                describe(row),
                int(row["frame"]),
                int(view.time[message]) if known else 0,
                stream=int(row["stream"]),
                number=int(view.number[message]) if known else None,
            )


def _first_only(found: Mask, owner: Ints) -> Mask:
    """The first that was found of each message."""
    places = np.flatnonzero(found)
    _, first = np.unique(owner[places], return_index=True)
    mask = np.zeros(len(found), np.bool_)
    mask[places[first]] = True
    return mask
