"""InfiniBand of the machine's own devices: an adapter, or Soft-RoCE, through libibverbs and librdmacm.

Queue pairs, completion queues and work requests are those of pyverbs. Its classes for RDMA-CM wait instead of telling
what to wait for, and keep back whom an event is of, its status and the peer's address: so connections are made through
librdmacm itself (:mod:`.rdmacm`). Both use the one protection domain that librdmacm has for a device.

pyverbs is imported when somebody asks for this provider, and not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdstool.transport.ib.verbs.presence import check

if TYPE_CHECKING:
    from rdstool.transport.ib.verbs.provider import VerbsProvider


def make_provider(address: str) -> VerbsProvider:
    """The device that has a local address. Raises ``TransportError`` that says what is missing, and what to do."""
    check()
    from rdstool.transport.ib.verbs.provider import VerbsProvider  # noqa: PLC0415

    return VerbsProvider(address)
