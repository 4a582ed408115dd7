"""Statistics of a capture: traffic, acknowledgement latency, congestion, paths, restarts, and how much was seen.

with rdstool.open_capture("capture.pcap") as capture:
    for path in collect(capture).paths:
        print(path.src, path.dst, path.path, path.data_messages, path.latency.p99)
"""

from __future__ import annotations

from rdstool.stats.collect import Collector, collect
from rdstool.stats.model import SECTIONS, CaptureStats

__all__ = ["SECTIONS", "CaptureStats", "Collector", "collect"]
