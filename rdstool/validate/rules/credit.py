"""RDS-CRD: credit flow control of InfiniBand, which mainline kernels never switch on. RDS-CRD-003: ``fragments``."""

from __future__ import annotations

import numpy as np

from rdstool.capture.events import CmMessage
from rdstool.protocol.credits import CREDIT_LIMIT, SendCredits
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.rule import ERROR, IB, WARNING, Rule
from rdstool.validate.view import View

_SOURCE = "net/rds/ib_send.c, ib_cm.c"
MAX_REQUESTS = 4096
"""Requests that are remembered for their reply."""

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


class CreditCheck(Check):
    """Follows the credits of the few connections that use them."""

    rules = (NOT_AGREED, OVERSPENT, TOO_MANY)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._asked: dict[tuple[int, bytes], int] = {}
        self._agreed: dict[int, bool] = {}
        self._accounts: dict[int, SendCredits] = {}
        """By the flow that sends."""
        self._overflown: set[int] = set()

    def feed(self, batch: Batch) -> None:
        """Set-ups, then frames."""
        view = batch.view
        self._set_up(view)
        if not view.any_ib or not view.count:
            return
        if view.credit.any():
            off = [number for number, agreed in self._agreed.items() if not agreed]
            found = (view.credit != 0) & view.ib & np.isin(view.stream, off)
            self.report.rows(NOT_AGREED, view, found, lambda i: f"h_credit is {view.credit[i]}")
        if self._accounts:
            for row in np.flatnonzero(np.isin(view.flow, list(self._accounts))).tolist():
                if int(view.flow[row]) in self._accounts:
                    self._count(view, row)

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
                    self._accounts[2 * event.stream + active] = SendCredits(event.private.credit)
                    self._accounts[2 * event.stream + 1 - active] = SendCredits(asked)

    def _count(self, view: View, row: int) -> None:
        flow = int(view.flow[row])
        account, other = self._accounts[flow], self._accounts[flow ^ 1]
        if not (self.context.continuity.whole(flow) and self.context.continuity.whole(flow ^ 1)):
            # Grants or frames may lie in the hole: nothing more can be said.
            del self._accounts[flow], self._accounts[flow ^ 1]
            return
        had = account.available
        if not account.spend(int(view.rows["fragments"][row])):
            self.report.rows(OVERSPENT, view, [row], lambda i: f"{view.rows['fragments'][i]} frames with {had} credits")
        other.grant(int(view.credit[row]))
        if other.overflown and flow not in self._overflown:
            self._overflown.add(flow)
            self.report.row(TOO_MANY, view, row, f"{other.available} are unspent, the limit is {CREDIT_LIMIT}")
