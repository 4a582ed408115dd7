"""Modules without their compression: to unpack those that a guest loads takes emulation seconds, each time anew."""

from __future__ import annotations

import lzma
from pathlib import Path

LOADED = frozenset(
    {
        *("rds", "rds_rdma", "rds_tcp"),
        *("ib_cm", "ib_core", "ib_uverbs", "ib_uverbs_support", "iw_cm", "rdma_cm", "rdma_rxe", "rdma_ucm"),
        *("configfs", "crc32_cryptoapi", "crc32_generic", "ip6_udp_tunnel", "udp_tunnel"),
        *("9p", "9pnet", "9pnet_virtio", "failover", "net_failover", "netfs", "overlay", "sch_netem"),
        *("virtio_console", "virtio_mmio", "virtio_net", "virtio_pci"),
    }
)
"""What guests load, and what that needs, as ``/proc/modules`` has it. One that is not named here loads more slowly."""

_PACKED = ".ko.xz"


def unpack_modules(folder: Path) -> None:
    """Unpack those of ``LOADED`` below ``folder`` in place; the index of modules is to be made after it."""
    for packed in folder.rglob(f"*{_PACKED}"):
        if packed.name.removesuffix(_PACKED).replace("-", "_") in LOADED:
            packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
            packed.unlink()
