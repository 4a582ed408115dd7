"""Soft-RoCE in a guest."""

from __future__ import annotations

from rdstool.lab import Guest
from rdstool.transport.ib.roce.numbers import gid_of


def add_rxe(guest: Guest) -> None:
    """A Soft-RoCE device in the guest that programs can use, without RDS on top."""
    guest.add_rxe()
    guest.unload_modules("rds_rdma")
    guest.load_modules("ib_uverbs", "rdma_ucm")


def has_rxe(guest: Guest) -> bool:
    """Whether it has that device."""
    return not guest.run(["test", "-d", "/sys/class/infiniband/rxe0"], check=False).status


def remove_rxe(guest: Guest) -> None:
    """As before."""
    guest.run(["rdma", "link", "delete", "rxe0"])


def gid_index(guest: Guest) -> str:
    """Where the device has the GID of the guest's IPv4 address."""
    wanted = gid_of(guest.address).hex()
    folder = "/sys/class/infiniband/rxe0/ports/1/gids"
    found = guest.run(["grep", "-H", "", "-r", folder]).stdout
    for line in found.splitlines():
        path, _, gid = line.partition(":")
        if gid.replace(":", "") == wanted:
            return path.rpartition("/")[2]
    raise AssertionError(f"rxe0 has no GID {wanted}: {found}")
