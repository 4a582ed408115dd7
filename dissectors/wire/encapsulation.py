"""How packets of the InfiniBand transport are told apart from others, and what frames them."""

from __future__ import annotations

from enum import IntEnum

ROCE_UDP_PORT = 4791
"""UDP destination port of RoCE v2."""
ROCE_ETHERTYPE = 0x8915
"""EtherType of RoCE v1."""
ICRC_BYTES = 4


class NextHeader(IntEnum):
    """``lnh`` of LRH: what follows the link header."""

    RAW = 0
    IPV6 = 1
    BTH = 2
    GRH = 3
