"""A second guest in a network, behind a tap device of its own; the host forwards between the two.

with Network() as network, Annex(network) as annex, Guest(kernel, network) as one, Guest(kernel, annex) as other:
    ...
"""

from __future__ import annotations

import os
from typing import Self

from rdstool.errors import LabError
from rdstool.lab.network import Network

_SETTINGS = ("ip_forward", "conf/{0}/proxy_arp", "conf/{1}/proxy_arp")
"""What lets guests reach each other, and each find the other as if it were on the same wire."""


class Annex(Network):
    """The same network for another guest; a context manager. The two guests reach each other over IPv4.

    What passes between them passes the tap device of the network, where ``network.capture`` sees it.
    """

    guest, guest6 = "192.0.2.101", "2001:db8::101"
    tap = "rds1"

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def start(self) -> Self:
        """Make the tap device, and a way to it. Raises ``LabError``."""
        self._holder, self._channel = self._network.held()
        os.close(self.plug())
        self.ip("link", "set", self.tap, "up")
        self.ip("route", "add", f"{self.guest}/32", "dev", self.tap)
        for name in _SETTINGS:
            file = f"/proc/sys/net/ipv4/{name.format(self._network.tap, self.tap)}"
            if self.run(["sh", "-c", f"echo 1 > {file}"], capture_output=True).returncode:
                raise LabError(f"the network cannot forward: {file} cannot be written")
        return self

    def stop(self) -> None:
        """The tap device goes with the network."""
        self._holder = self._channel = None
