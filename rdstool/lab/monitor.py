"""QEMU's monitor, for what happens to a machine from outside (QEMU Machine Protocol: JSON lines over a socket)."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

from rdstool.lab.channel import GuestError

_TIMEOUT_S = 60.0
"""How long an answer may take."""


class Monitor:
    """Commands to one QEMU, whose monitor is at the other end of ``sock``."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(_TIMEOUT_S)
        self._socket = sock
        self._lines = sock.makefile("r", encoding="utf-8")
        self._greeted = False

    def execute(self, command: str, **arguments: object) -> Any:
        """Run a command; what it returns. Raises ``GuestError`` where QEMU refuses it, or is gone."""
        if not self._greeted:
            self._greeted = True
            self.execute("qmp_capabilities")
        try:
            self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            for line in self._lines:
                told = json.loads(line)
                if "error" in told:
                    raise GuestError(f"QEMU refuses {command}: {told['error']['desc']}")
                if "return" in told:
                    return told["return"]
        except OSError as problem:
            raise GuestError(f"{command}: no answer from QEMU ({problem.strerror or problem})") from problem
        raise GuestError(f"{command}: QEMU is gone")

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._lines.close()
        self._socket.close()
