"""RDS-CRD: credit flow control of InfiniBand, which mainline kernels never switch on. RDS-CRD-003: ``fragments``."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

import numpy as np

from rdstool.capture.events import CmMessage
from rdstool.protocol.credits import CREDIT_LIMIT, SendCredits
from rdstool.protocol.kinds import MessageKind
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.rule import ERROR, IB, WARNING, Rule
from rdstool.validate.view import View

_SOURCE = "net/rds/ib_send.c, ib_cm.c"
MAX_REQUESTS = 4096
"""Requests that are remembered for their reply."""
MAX_WAITING = 100_000
"""Frames of a capture that grants for one of them may come to light behind it."""
NEVER = 1 << 62

NOT_AGREED = Rule(
    "RDS-CRD-001",
    WARNING,
    "Credits are granted although flow control is off",
    IB,
    "7.6",
    _SOURCE,
    "h_credit is used only where both sides gave credits when the connection was made.",
    "The receiver adds them up and never spends them.",
    "Check the sender; the set-up of the connection tells what was agreed.",
)
OVERSPENT = Rule(
    "RDS-CRD-002",
    ERROR,
    "More frames were sent than credits were granted",
    IB,
    "7.6",
    _SOURCE,
    "Each SEND costs one credit: those given at the start and through h_credit since.",
    "The receiver has no buffer for the frame: it answers receiver-not-ready, and the sender repeats it.",
    "Check the sender's accounting.",
    unbroken=True,
)
TOO_MANY = Rule(
    "RDS-CRD-004",
    WARNING,
    "Too many credits are unspent",
    IB,
    "7.6",
    _SOURCE,
    "Unspent credits must stay below 16384: the kernel counts them in half of a word.",
    "The count runs over into the credits that wait to be granted, and both are wrong from then on.",
    "Check the granting side.",
    unbroken=True,
)


class Spent(NamedTuple):
    """A frame, as it was sent."""

    frame: int
    time: int
    number: int | None
    """Number of the frame's message."""


def _frame(spent: Spent) -> int:
    return spent.frame


class Account:
    """What one flow may still send.

    The frames of a long message are told when it ends, so its grants may come to light behind what they were spent
    on: a frame waits for them until the other flow has told of all that stands before it.
    """

    __slots__ = ("credits", "uncovered")

    def __init__(self, initial: int) -> None:
        self.credits = SendCredits(initial)
        self.uncovered: list[Spent] = []

    def spend(self, frame: Spent) -> None:
        """A frame is sent."""
        if not self.credits.spend(1):
            self.uncovered.append(frame)

    def grant(self, more: int, frame: int) -> None:
        """The other flow's frame grants credits: to what was sent behind it, and to what is to come."""
        behind = bisect_right(self.uncovered, frame, key=_frame)
        covered = len(self.uncovered[behind : behind + more])
        del self.uncovered[behind : behind + covered]
        self.credits.grant(more - covered)

    def overspent(self, before: int) -> list[Spent]:
        """Take the frames before this one that nothing covers."""
        end = bisect_left(self.uncovered, before, key=_frame)
        taken, self.uncovered[:end] = self.uncovered[:end], []
        return taken


class CreditCheck(Check):
    """Follows the credits of the few connections that use them."""

    rules = (NOT_AGREED, OVERSPENT, TOO_MANY)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._asked: dict[tuple[int, bytes], int] = {}
        self._agreed: dict[int, bool] = {}
        self._accounts: dict[int, Account] = {}
        """Accounts by the flow that sends."""
        self._told: dict[int, int | None] = {}
        """The message of a flow that was last told of."""
        self._overflown: set[int] = set()

    def feed(self, batch: Batch) -> None:
        """Take the set-ups, then the frames, of a batch."""
        view = batch.view
        self._set_up(view)
        if not view.any_ib or not view.count:
            return
        if view.credit.any():
            off = [number for number, agreed in self._agreed.items() if not agreed]
            found = (view.credit != 0) & view.ib & np.isin(view.stream, off)
            self.report.rows(NOT_AGREED, view, found, lambda i: f"h_credit is {view.credit[i]}")
        if self._accounts:
            self._count(view)

    def finish(self) -> None:
        """Judge what is left, now that all grants are known."""
        for flow, account in self._accounts.items():
            self._tell(flow, account, NEVER)

    def _set_up(self, view: View) -> None:
        for event in view.decoded.events:
            if not isinstance(event, CmMessage) or event.private is None:
                continue
            if event.name == "REQ":
                if len(self._asked) < MAX_REQUESTS:
                    self._asked[event.transaction_id, event.src] = event.private.credit
            elif event.name == "REP" and event.stream >= 0:
                asked = self._asked.pop((event.transaction_id, event.dst), None)
                if asked is None:
                    continue
                stream = self.context.streams[event.stream]
                self._agreed[event.stream] = bool(asked and event.private.credit)
                if self._agreed[event.stream]:
                    active = int(event.dst == stream.b.address)
                    # Each side starts with what the other one gave.
                    self._accounts[2 * event.stream + active] = Account(event.private.credit)
                    self._accounts[2 * event.stream + 1 - active] = Account(asked)

    def _count(self, view: View) -> None:
        whole = self.context.continuity.whole
        for flow in [each for each in self._accounts if not whole(each)]:
            # Grants or frames may lie in the hole: nothing more can be said.
            self._accounts.pop(flow, None)
            self._accounts.pop(flow ^ 1, None)
        rows = view.decoded.fragments
        flows = rows["stream"].astype(np.int64) * 2 + rows["direction"]
        mine = np.flatnonzero(np.isin(flows, list(self._accounts)))
        for row in mine[np.argsort(rows["frame"][mine], kind="stable")].tolist():
            flow, frame, message = int(flows[row]), int(rows["frame"][row]), int(rows["message"][row])
            known = message >= 0
            account, other = self._accounts[flow], self._accounts[flow ^ 1]
            number, time = (int(view.number[message]), int(view.time[message])) if known else (None, 0)
            account.spend(Spent(frame, time, number))
            other.grant(int(rows["credit"][row]), frame)
            # Ack-only frames may stand between those of a message that has not ended.
            in_order = known and view.kind[message] != MessageKind.ACK
            self._tell(flow ^ 1, other, frame if in_order else frame - MAX_WAITING)
            if other.credits.overflown and flow not in self._overflown and known:
                self._overflown.add(flow)
                unspent = f"{other.credits.available} are unspent, the limit is {CREDIT_LIMIT}"
                self.report.row(TOO_MANY, view, message, unspent)

    def _tell(self, flow: int, account: Account, before: int) -> None:
        for frame in account.overspent(before):
            if frame.number is not None and self._told.get(flow) == frame.number:
                continue
            self._told[flow] = frame.number
            self.report.at(
                OVERSPENT, "no credit was left", frame.frame, frame.time, stream=flow >> 1, number=frame.number
            )
