"""Started by the guest's init, as ``main``. Ends when the host hangs up."""

from __future__ import annotations

import os

from rdstool.lab.agent.commands import Commands
from rdstool.lab.agent.server import Server
from rdstool.lab.agent.sockets import Sockets
from rdstool.lab.agent.system import System

PORTS = "/sys/class/virtio-ports"


def find_port(name: str) -> str:
    """The device of the virtio-serial port that QEMU calls ``name``; it needs no udev."""
    for port in os.listdir(PORTS):
        with open(f"{PORTS}/{port}/name") as file:
            if file.read().strip() == name:
                return f"/dev/{port}"
    raise SystemExit(f"no virtio-serial port {name}: virtio_console is not loaded")


def main(name: str) -> None:
    """Serve the host's calls on the port called ``name`` until it hangs up."""
    with open(find_port(name), "r+b", buffering=0) as port:
        server = Server(port)
        for part in (Commands(server), Sockets(), System()):
            server.offer(part)
        server.run()
