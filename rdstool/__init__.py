"""rdstool: protocol analyzer and traffic generator for RDS (Reliable Datagram Sockets, Linux AF_RDS).

import rdstool

for message in rdstool.open_capture("capture.pcap"):
    print(message.number, message.kind.label, message.src, message.dst, message.length)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdstool.capture.message import Message
    from rdstool.capture.pipeline import Capture, CaptureOptions, open_capture

__version__ = "0.1.0"
__all__ = ["Capture", "CaptureOptions", "Message", "__version__", "open_capture"]

_HOMES = {
    "Capture": "rdstool.capture.pipeline",
    "CaptureOptions": "rdstool.capture.pipeline",
    "Message": "rdstool.capture.message",
    "open_capture": "rdstool.capture.pipeline",
}
"""Where the names live: they are imported on first use, since NumPy takes longer than ``rdstool --version`` may."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rdstool' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)
