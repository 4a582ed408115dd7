"""Real kernels under QEMU: the judge of everything that speaks RDS here (docs/lab.md).

from rdstool.lab import Guest, Network, find_kernel

with Network() as network, Guest(find_kernel("6.12"), network) as guest:
    print(guest.run(["uname", "-r"]).stdout)
    sender, receiver = guest.rds.open(guest.address), guest.rds.open(guest.address)
    guest.rds.send(sender, receiver, size=100, seed=1)
    print(guest.rds.receive(receiver))
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in ``typing``, which the agent in the guest does without
if TYPE_CHECKING:
    from typing import Any

    from rdstool.lab.channel import GuestError
    from rdstool.lab.completed import Completed
    from rdstool.lab.content import digest, payload
    from rdstool.lab.fetch import fetch_kernel
    from rdstool.lab.guest import Guest
    from rdstool.lab.kernels import Kernel, find_kernel
    from rdstool.lab.network import Network
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
    "payload",
]

_HOMES = {
    "Completed": "completed",
    "Guest": "guest",
    "GuestError": "channel",
    "Kernel": "kernels",
    "Message": "rds",
    "Network": "network",
    "RdsSocket": "rds",
    "digest": "content",
    "fetch_kernel": "fetch",
    "find_kernel": "kernels",
    "payload": "content",
}
"""Where the names live. They are imported on first use: the agent in the guest, where every import is slow, is a part
of this package and needs none of them."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rdstool.lab' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"rdstool.lab.{_HOMES[name]}"), name)
