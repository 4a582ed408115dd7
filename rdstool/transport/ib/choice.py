"""The provider of InfiniBand that a name stands for, imported when it is chosen."""

from __future__ import annotations

from functools import partial

from rdstool.errors import UsageError
from rdstool.transport.ib.names import PROVIDERS, ROCE, VERBS
from rdstool.transport.ib.transport import MakeProvider
from rdstool.transport.tcp.sockets import MakeSocket


def provider_named(name: str, make_socket: MakeSocket) -> MakeProvider:
    """What makes providers at local addresses. Raises ``UsageError`` where there is none of that name."""
    if name == ROCE:
        from rdstool.transport.ib.roce_udp import RoceProvider  # noqa: PLC0415

        return partial(RoceProvider, make_socket=make_socket)
    if name == VERBS:
        from rdstool.transport.ib.verbs import make_provider  # noqa: PLC0415

        return make_provider
    raise UsageError(f"there is no provider {name!r}: they are {', '.join(PROVIDERS)}")
