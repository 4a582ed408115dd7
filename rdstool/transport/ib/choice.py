"""Who provides InfiniBand: chosen by name, and imported then."""

from __future__ import annotations

from functools import partial

from rdstool.errors import UsageError
from rdstool.transport.ib.transport import MakeProvider
from rdstool.transport.tcp.sockets import MakeSocket

PROVIDERS = ("roce", "verbs")
"""RoCE v2 in this process, over UDP, without a device; and the devices of this machine. The first is the usual one."""


def provider_named(name: str, make_socket: MakeSocket) -> MakeProvider:
    """Makes providers at local addresses. Raises ``UsageError`` where there is none of that name."""
    if name == "roce":
        from rdstool.transport.ib.roce_udp import RoceProvider  # noqa: PLC0415

        return partial(RoceProvider, make_socket=make_socket)
    if name == "verbs":
        from rdstool.transport.ib.verbs import make_provider  # noqa: PLC0415

        return make_provider
    raise UsageError(f"there is no provider {name!r}: they are {', '.join(PROVIDERS)}")
