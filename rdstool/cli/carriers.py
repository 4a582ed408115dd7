"""What carries RDS: the words of ``--transport`` and ``--provider``, and the answer to ``auto``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rdstool.cli.choices import one_of
from rdstool.cli.output import note
from rdstool.errors import UsageError
from rdstool.transport.ib.names import PROVIDERS, ROCE

if TYPE_CHECKING:
    from rdstool.protocol.kinds import Transport


TCP, IB = TRANSPORTS = ("tcp", "ib")
AUTO = "auto"
"""For listeners both transports, for senders the one by which the peer answers."""


def carriers(transport: str, provider: str) -> Sequence[str]:
    """The transports that a listener serves. Raises ``UsageError`` for ``auto`` with another provider than roce."""
    if transport != AUTO:
        return (transport,)
    if provider != ROCE:
        raise UsageError(f"--transport {AUTO} is for --provider {ROCE}: name the transport")
    return TRANSPORTS


def transport_to(transport: str, peers: Sequence[str], own: str, provider: str) -> str:
    """What carries RDS from ``own`` to all of ``peers``: the answer to ``auto``, else what was asked for.

    InfiniBand where each of them answers there, as kernels prefer it too; else TCP. Asked once; waits a second at most
    for each that does not answer. Raises ``UsageError`` as ``carriers``.
    """
    if len(carriers(transport, provider)) == 1:
        return transport
    from rdstool.transport.ib.answering import speaks_ib  # noqa: PLC0415

    chosen = IB if all(speaks_ib(peer, own) for peer in dict.fromkeys(peers)) else TCP
    note(f"auto: {', '.join(dict.fromkeys(peers))} over {chosen}")
    return chosen


def carrier_named(transport: str, provider: str, pcap: Path | None) -> Transport:
    """The transport of that name, for which ``auto`` has been decided.

    Raises ``UsageError`` for an unknown name, and for options that do not go together.
    """
    from rdstool.protocol.kinds import Transport  # noqa: PLC0415

    one_of("--transport", transport, (*TRANSPORTS, AUTO))
    one_of("--provider", provider, PROVIDERS)
    if provider != ROCE and transport == TCP:
        raise UsageError(f"--provider {provider} is for InfiniBand: add --transport ib")
    if provider != ROCE and pcap is not None:
        raise UsageError(
            f"--pcap needs --provider {ROCE}: no program sees the packets of a device; "
            "rdstool capture on its network interface may"
        )
    return Transport[transport.upper()]
