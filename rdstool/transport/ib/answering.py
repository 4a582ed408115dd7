"""Whether a peer speaks RDS over InfiniBand: asked once, by who has the choice between that and TCP.

RDS refuses a version that it does not know before it keeps anything of the request (protocol.md §7.2). So the REJ of a
program, not that of a stack that knows no such service, is the sign that RDS is there, be it a kernel's or rdstool's.
Private data that is all zeros would not do: kernels take it for version 4.0, and make a connection to 0.0.0.0.
"""

from __future__ import annotations

import select
import time

from dissectors.wire.cm import RejectReason
from rdstool.errors import TransportError
from rdstool.protocol.ib.private import Greeting, Version, service_id
from rdstool.transport.ib import provider as verbs
from rdstool.transport.ib.roce_udp import RoceProvider

NOBODYS: Version = (255, 255)
"""A version that no RDS speaks."""
ANSWER_S = 3.0
"""How long the answer may take: a kernel in emulation was seen to need more than one. Where nobody has the port, none
comes."""


def speaks_ib(peer: str, own: str) -> bool:
    """Ask ``peer`` from the address ``own``, which must be free. Blocks for ``ANSWER_S`` seconds at most."""
    try:
        provider = RoceProvider(own)
    except TransportError:
        return False  # the address is an adapter's, or another node's: there is no InfiniBand for us
    try:
        provider.connect(peer, service_id(peer), Greeting(own, peer, NOBODYS).pack())
        return _answer(provider)
    except TransportError:
        return False
    finally:
        provider.close()


def _answer(provider: RoceProvider) -> bool:
    deadline = time.monotonic() + ANSWER_S
    while (now := time.monotonic()) < deadline:
        for event in provider.process(now):
            if isinstance(event, verbs.Refused):
                return event.reason == RejectReason.CONSUMER
            if isinstance(event, verbs.ConnectFailed):
                return False
        due = provider.next_timer()
        until = deadline if due is None else min(due, deadline)
        select.select(provider.filenos(), (), (), max(0.0, until - now))
    return False
