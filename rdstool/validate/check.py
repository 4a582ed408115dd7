"""What all rule areas have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from rdstool.capture.pipeline import Capture
from rdstool.capture.streams import Stream, StreamTable
from rdstool.validate.connections import Connections
from rdstool.validate.flows import Continuity, Grouped, Numbered, Numbering
from rdstool.validate.handshake import Announcement, PathCounts
from rdstool.validate.reporter import Reporter
from rdstool.validate.rule import Rule
from rdstool.validate.rules.delivery.words import Words
from rdstool.validate.view import View


@dataclass(slots=True)
class Context:
    """What areas share: the capture's streams, the state of flows, and the place for findings."""

    capture: Capture
    report: Reporter
    connections: Connections = field(default_factory=Connections)
    continuity: Continuity = field(default_factory=Continuity)
    numbering: Numbering = field(default_factory=Numbering)
    path_counts: PathCounts = field(default_factory=PathCounts)
    not_followed: int = 0
    """Connections that were too many to follow messages over."""
    not_whole: int = 0
    """Reconnected connections over which they were not followed, as the capture lacks something of their addresses."""
    reread: bool = True
    """The input may be read a second time."""

    def both_ends_heard(self, stream: Stream) -> bool:
        """The capture holds something that each of the two addresses sent to the other."""
        heard = set()
        for number in self.connections.of_pair(stream.pair):
            for direction in (0, 1):
                if self.continuity.heard(2 * number + direction):
                    heard.add(self.streams[number].ends(direction)[0].address)
            if len(heard) == 2:
                return True
        return False

    @property
    def words(self) -> Words:
        """How to tell of messages."""
        return Words(self.streams)

    @property
    def streams(self) -> StreamTable:
        """The streams of the run that is under way."""
        return self.capture.streams


@dataclass(slots=True)
class Batch:
    """One batch, prepared for all areas."""

    view: View
    grouped: Grouped
    numbered: Numbered
    shakes: list[Announcement]
    """Messages of the multipath handshake."""
    bitmaps: dict[int, list[int]]
    """Row of a congestion bitmap that was seen whole -> the ports that it marks."""


class Check:
    """One area of rules. Subclasses name their rules and look at each batch once."""

    rules: tuple[Rule, ...] = ()

    def __init__(self, context: Context) -> None:
        self.context = context
        self.report = context.report

    def feed(self, batch: Batch) -> None:
        """Look at the next batch."""

    def finish(self) -> None:
        """Conclude what had to wait for the end of the capture."""

    def who(self, stream: int, direction: int) -> str:
        """Such as ``10.0.0.1 > 10.0.0.2``."""
        source, destination = self.context.streams[stream].ends(direction)
        return f"{source.host} > {destination.host}"
