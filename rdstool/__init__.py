"""rdstool: protocol analyzer and traffic generator for RDS (Reliable Datagram Sockets, Linux AF_RDS).

To read captures:

import rdstool

for message in rdstool.open_capture("capture.pcap"):
    print(message.number, message.kind.label, message.src, message.dst, message.length)

To speak RDS: :mod:`rdstool.endpoint.node` for asyncio programs, :mod:`rdstool.endpoint.blocking` for all others.
"""

from __future__ import annotations

from rdstool.version import __version__

TYPE_CHECKING = False  # as in ``typing``, whose import takes a fifth of the time of ``rdstool --version``
if TYPE_CHECKING:
    from typing import Any

    from rdstool.capture.message import Message
    from rdstool.capture.pipeline import Capture, CaptureOptions, open_capture
    from rdstool.endpoint.blocking import Socket
    from rdstool.endpoint.core import NodeOptions
    from rdstool.endpoint.node import AsyncSocket, Node
    from rdstool.errors import CaptureError
    from rdstool.protocol.config import Limits, Settings


__all__ = [
    "AsyncSocket",
    "Capture",
    "CaptureError",
    "CaptureOptions",
    "Limits",
    "Message",
    "Node",
    "NodeOptions",
    "Settings",
    "Socket",
    "__version__",
    "open_capture",
]

_HOMES = {
    "AsyncSocket": "rdstool.endpoint.node",
    "Capture": "rdstool.capture.pipeline",
    "CaptureError": "rdstool.errors",
    "CaptureOptions": "rdstool.capture.pipeline",
    "Limits": "rdstool.protocol.config",
    "Message": "rdstool.capture.message",
    "Node": "rdstool.endpoint.node",
    "NodeOptions": "rdstool.endpoint.core",
    "Settings": "rdstool.protocol.config",
    "Socket": "rdstool.endpoint.blocking",
    "open_capture": "rdstool.capture.pipeline",
}
"""Where the names live: they are imported on first use, since NumPy takes longer than ``rdstool --version`` may."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rdstool' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """What completion offers: the names that are imported on first use too."""
    return sorted({*globals(), *__all__})
