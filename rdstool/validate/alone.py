"""Rules that one message, or one stream by itself, can break: a dissector can check them, and Wireshark's does.

The others compare connections, or need the capture's end.
"""

from __future__ import annotations

ALONE = (
    *(f"RDS-HDR-{number:03d}" for number in range(1, 13)),
    *(f"RDS-EXT-{number:03d}" for number in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11)),
    *(f"RDS-SEQ-{number:03d}" for number in (1, 2, 3, 4)),
    *(f"RDS-RTX-{number:03d}" for number in (3, 4, 5)),
    *(f"RDS-ACK-{number:03d}" for number in (1, 3)),
    *(f"RDS-CNG-{number:03d}" for number in (1, 2, 3, 6)),
    *(f"RDS-CMR-{number:03d}" for number in range(1, 12)),
    *(f"RDS-FRG-{number:03d}" for number in (1, 2, 3, 4, 5)),
    "RDS-CRD-003",
    *(f"RDS-RDM-{number:03d}" for number in (2, 3, 5, 6)),
)
