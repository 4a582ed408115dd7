"""How packets of the InfiniBand transport are told apart from others, and what frames them."""

from __future__ import annotations

from enum import IntEnum

ROCE_UDP_PORT = 4791
"""UDP destination port of RoCE v2."""
ROCE_ETHERTYPE = 0x8915
"""EtherType of RoCE v1."""
ROCE_FIRST_SOURCE_PORT = 0xC000
"""UDP source ports of RoCE v2 begin here: the upper quarter (InfiniBand Architecture vol. 1 Annex A17)."""
ICRC_BYTES = 4


class NextHeader(IntEnum):
    """``lnh`` of LRH: what follows the link header."""

    RAW = 0
    IPV6 = 1
    BTH = 2
    GRH = 3
