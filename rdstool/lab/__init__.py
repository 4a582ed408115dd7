"""Real kernels under QEMU: the judge of everything that speaks RDS here (docs/lab.md).

from rdstool.lab import Guest, Network, find_kernel

with Network() as network, Guest(find_kernel("6.12"), network) as guest:
    print(guest.run(["uname", "-r"]).stdout)
    sender, receiver = guest.rds.open(guest.address), guest.rds.open(guest.address)
    guest.rds.send(sender, receiver, size=100, seed=1)
    print(guest.rds.receive(receiver))
"""

from __future__ import annotations

from rdstool.lab.channel import GuestError
from rdstool.lab.fetch import fetch_kernel
from rdstool.lab.guest import Completed, Guest
from rdstool.lab.kernels import Kernel, find_kernel, kernels
from rdstool.lab.network import Network
from rdstool.lab.payload import digest, payload
from rdstool.lab.rds import Message, RdsSocket

__all__ = [
    "Completed",
    "Guest",
    "GuestError",
    "Kernel",
    "Message",
    "Network",
    "RdsSocket",
    "digest",
    "fetch_kernel",
    "find_kernel",
    "kernels",
    "payload",
]
