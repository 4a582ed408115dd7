"""RDS-DLV, and what of RDS-SEQ and RDS-RTX spans connections: what becomes of messages when a connection is cut.

All of it needs both sides of the cut, so it is judged at the end of the capture, for address pairs that reconnected:
each is a :class:`~rdstool.validate.rules.delivery.story.Story`.
"""

from __future__ import annotations

import numpy as np

from dissectors.wire.extensions import GenNum
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.rules.delivery.journal import Journal, Sent
from rdstool.validate.rules.delivery.legs import Legs
from rdstool.validate.rules.delivery.rules import (
    DIFFERENT,
    EXCHANGED,
    LOST,
    MAYBE_LOST,
    MAYBE_TWICE,
    NEVER_SEEN,
    NOT_RESENT,
    NUMBERING,
    REFUSED,
    REORDERED,
    TWICE,
    UNFLAGGED,
)
from rdstool.validate.rules.delivery.story import Found, Generations, Story

MAX_COMPARED = 4096
"""Pairs of copies whose payloads are compared."""
MAX_FOLLOWED = 8192
"""Connections over which messages are followed, of all address pairs that reconnected."""
MAX_GENERATIONS = 65536
"""Hosts whose generation numbers are followed."""


class DeliveryCheck(Check):
    """Keeps the ends of all flows, and judges reconnects when the capture is over."""

    rules = (
        UNFLAGGED,
        DIFFERENT,
        NUMBERING,
        TWICE,
        LOST,
        REORDERED,
        MAYBE_LOST,
        MAYBE_TWICE,
        NOT_RESENT,
        NEVER_SEEN,
        EXCHANGED,
        REFUSED,
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.journal = Journal()
        self._generations = Generations()
        self._followed = 0
        self._compare: list[tuple[Sent, Sent]] = []

    def feed(self, batch: Batch) -> None:
        """Keep the batch; all is judged at the end."""
        self.journal.add(batch.view, batch.numbered)
        generations = self._generations
        for said in batch.shakes:
            for item in said.items:
                if isinstance(item, GenNum) and item.gen_num:
                    known = generations.told.get(said.source)
                    if known is None and len(generations.told) < MAX_GENERATIONS:
                        generations.told[said.source] = [(said.frame, item.gen_num)]
                    elif known is not None and known[-1][1] != item.gen_num:
                        known.append((said.frame, item.gen_num))

    def finish(self) -> None:
        """Judge each address pair that was connected more than once."""
        connections = self.context.connections
        if not connections.shared:
            return
        self.journal.settle()
        overtaken = self._overtaken_pairs()
        for pair, numbers in sorted(connections.shared.items(), key=lambda item: self._place(item[1][0])):
            if pair in overtaken or connections.made_again(pair) or self._sequential(numbers):
                room = MAX_FOLLOWED - self._followed
                self._followed += min(room, len(numbers))
                self.context.not_followed += max(0, len(numbers) - room)
                if room:
                    self._judge(numbers[:room])
        self._payloads()

    def _place(self, number: int) -> tuple[bytes, bytes, int]:
        """Where the address pair of a stream stands among others, whichever was seen first."""
        stream = self.context.streams[number]
        return *stream.address_pair, stream.transport

    def _judge(self, numbers: list[int]) -> None:
        if not self._can_be_followed(numbers):
            self.context.not_whole += len(numbers)
            return
        legs = Legs(self.context, self.journal, numbers)
        if legs.forgotten:
            return
        story = Story(self.context, legs, self._generations)
        story.follow()
        for found in story.found:
            self._say(found)
        self._compare += story.repeated[: MAX_COMPARED - len(self._compare)]

    def _can_be_followed(self, numbers: list[int]) -> bool:
        """Nothing is missing between the first and the last message of any connection, and both ends were heard."""
        continuity, connections = self.context.continuity, self.context.connections
        flows = [2 * number + way for number in numbers for way in (0, 1)]
        whole = all(continuity.whole(flow, connections.first_end.one(flow)) for flow in flows)
        return whole and self.context.both_ends_heard(self.context.streams[numbers[0]])

    def _overtaken_pairs(self) -> set[int]:
        """Pairs in which a socket's messages may be on two paths at one time."""
        streams, connections = self.context.streams.streams, self.context.connections
        pair = np.array([stream.pair for stream in streams], np.int64)
        home = np.array([connections.is_first(stream) for stream in streams], np.bool_)
        dialler = np.array([stream.a.address > stream.b.address for stream in streams], np.int64)
        return self.journal.overtaken(pair, home, dialler)

    def _sequential(self, numbers: list[int]) -> bool:
        """Some connection began after another had spoken its last."""
        earliest_end: int | None = None
        for number in numbers:
            if earliest_end is not None and self.context.streams[number].first_frame > earliest_end:
                return True
            spoke = self.context.connections.spoke(number)
            if spoke is not None:
                earliest_end = spoke.last if earliest_end is None else min(earliest_end, spoke.last)
        return False

    def _payloads(self) -> None:
        """RDS-RTX-002 by the payload, where the input can be read again."""
        pairs = [(old, new) for old, new in self._compare if old.complete and new.complete]
        if not pairs or not self.context.reread or not self.report.wants(DIFFERENT):
            return
        numbers = {sent.number for pair in pairs for sent in pair}
        digests = self.context.capture.digests(numbers)
        words = self.context.words
        for old, new in pairs:
            one, other = digests.get(old.number), digests.get(new.number)
            if one is not None and other is not None and one != other:
                text = f"{words.told(old)}; again {words.seen(new)} with another payload"
                self._say(Found(DIFFERENT, new, text))

    def _say(self, found: Found) -> None:
        sent = found.sent
        self.report.at(
            found.rule,
            found.text,
            sent.frame,
            sent.time,
            stream=sent.flow >> 1,
            number=sent.number,
            severity=found.severity,
        )
