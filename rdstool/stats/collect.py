"""Sum up a capture: feed its batches to the accumulators, then write down what they found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdstool.stats.findings import Findings
from rdstool.stats.model import CaptureStats
from rdstool.stats.summary import summarise

if TYPE_CHECKING:
    from rdstool.capture.counts import FrameCounts
    from rdstool.capture.pipeline import Capture


class Collector(Findings):
    """Takes a capture, and sums it up at its end."""

    def finish(self, frames: FrameCounts) -> CaptureStats:
        """The results; no batch can follow."""
        self.lanes.catch_up()
        self.acks.finish()
        return summarise(self, frames)


def collect(capture: Capture) -> CaptureStats:
    """Read a capture from its beginning to its end and sum it up.

    Raises ``CaptureError`` where the capture is broken; use :class:`Collector` to keep what came before.
    """
    batches = capture.batches()
    collector = Collector(capture.streams)
    for decoded in batches:
        collector.take(decoded)
    return collector.finish(capture.frames)
