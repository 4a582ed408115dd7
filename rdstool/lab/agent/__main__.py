"""Started by the guest's init: ``python -m rdstool.lab.agent PORT-NAME``. Ends when the host hangs up."""

from __future__ import annotations

import sys
from pathlib import Path

from rdstool.lab.agent.commands import Commands
from rdstool.lab.agent.server import Server
from rdstool.lab.agent.sockets import Sockets
from rdstool.lab.agent.system import System

PORTS = Path("/sys/class/virtio-ports")


def find_port(name: str) -> Path:
    """The device of the virtio-serial port that QEMU calls ``name``; it needs no udev."""
    for port in PORTS.iterdir():
        if (port / "name").read_text().strip() == name:
            return Path("/dev") / port.name
    raise SystemExit(f"no virtio-serial port {name}: virtio_console is not loaded")


def main() -> None:
    """Serve the host's calls until it hangs up."""
    with find_port(sys.argv[1]).open("r+b", buffering=0) as port:
        server = Server(port)
        for part in (Commands(server), Sockets(), System()):
            server.offer(part)
        server.run()


if __name__ == "__main__":
    main()
