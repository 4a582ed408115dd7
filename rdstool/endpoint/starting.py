"""How every node begins, whether asyncio's or that of plain sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rdstool.endpoint.core import Core, NodeOptions
from rdstool.protocol import events


def started(
    addresses: tuple[str, ...],
    options: NodeOptions,
    hear: Callable[[events.Event], None],
    *,
    threaded: bool = False,
) -> Core:
    """A node in the running event loop, which answers about itself where ``options.control`` asks for it.

    Raises ``TransportError`` where an address cannot be had, ``SocketError`` where it is none.
    """
    core = Core(addresses, options, asyncio.get_running_loop(), hear, threaded=threaded)
    if options.control:
        from rdstool.endpoint.control import offer  # noqa: PLC0415 - programs that are not seen do without

        offer(core)
    return core
