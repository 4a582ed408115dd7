"""The process of a guest that stays up: boots it, serves its socket, and ends with it.

``python -m rdstool.lab.background STARTER NAME KERNEL MEMORY PROCESSORS RXE MODULE...``, with the number of the
process that starts it, 0 for the usual number of processors, and 1 or 0 for RXE, with Soft-RoCE or without. It closes
stdout once the guest is up; what it writes there before is why it did not come up. Until then, it ends with STARTER.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

from rdstool.errors import LabError
from rdstool.lab.guest import Guest
from rdstool.lab.kernels import find_kernel
from rdstool.lab.network import Network
from rdstool.lab.standing import Conversation, socket_path
from rdstool.parentage import end_with_parent, outlive_parent

_BACKLOG = 16


class Keeper:
    """Keeps one guest running."""

    def __init__(self, name: str, guest: Guest, network: Network) -> None:
        self._name = name
        self._guest = guest
        self._network = network
        self._path = socket_path(name)
        self._waiting: list[Conversation] = []
        """Those who asked for the end: they hear of it by the end of this process."""
        self._listener = socket.socket(socket.AF_UNIX)
        # It gets its name once it is served: one that refuses is taken for what a killed process left.
        aside = self._path.with_suffix(f".{os.getpid()}")
        self._listener.bind(str(aside))
        self._listener.listen(_BACKLOG)
        aside.replace(self._path)

    def serve(self) -> None:
        """Answer until the guest is shut down, or ends by itself."""
        threading.Thread(target=self._watch, daemon=True).start()
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed: the guest is gone
            threading.Thread(target=self._talk, args=(Conversation(sock),), daemon=True).start()

    def close(self) -> None:
        """Take no more requests; ``serve`` returns."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _watch(self) -> None:
        self._guest.wait()
        self.close()

    def _talk(self, talk: Conversation) -> None:
        with suppress(OSError, LabError):
            request = talk.hear()
            if request["do"] == "down":
                self._waiting.append(talk)
                self.close()
                return
            try:
                self._run(talk, request) if request["do"] == "run" else self._status(talk)
            except LabError as problem:
                talk.tell({"error": str(problem)})
        talk.close()

    def _status(self, talk: Conversation) -> None:
        guest, network = self._guest, self._network
        talk.tell(
            {
                "name": self._name,
                "kernel": guest.kernel.name,
                "release": guest.kernel.release,
                "accelerator": str(guest.accelerator),
                "address": guest.address,
                "address6": guest.address6,
                "smaller": network.smaller,
                "larger": network.larger,
                "enter": network.command([]),
            }
        )

    def _run(self, talk: Conversation, request: dict[str, Any]) -> None:
        stream = self._guest.stream(
            request["argv"],
            lambda number, data: talk.tell({"part": [number, base64.b64encode(data).decode("ascii")]}),
            environment=request["env"],
            folder=request["cwd"],
            stdin=request["stdin"],
        )

        def feed() -> None:
            try:
                while True:
                    told = talk.hear()
                    stream.feed(base64.b64decode(told["feed"]) if told["feed"] else b"")
            except LabError:  # whoever asked is gone
                with suppress(LabError):
                    stream.hang_up()

        threading.Thread(target=feed, daemon=True).start()
        talk.tell({"status": stream.wait()})


def main(starter: str, name: str, kernel: str, memory_mib: str, processors: str, rxe: str, *modules: str) -> None:
    """Boot, serve, shut down."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    end_with_parent(int(starter), signal.SIGTERM)
    guest = Guest(
        find_kernel(kernel),
        Network().start(),
        modules=modules,
        memory_mib=int(memory_mib),
        processors=int(processors) or None,
    )
    assert guest.network is not None
    try:
        guest.start()
        if int(rxe):
            guest.add_rxe()
        keeper = Keeper(name, guest, guest.network)
        outlive_parent()
        _come_up()
        try:
            keeper.serve()
        finally:
            keeper.close()
    finally:
        guest.stop()
        guest.network.stop()


def _come_up() -> None:
    """Tell the process that waits by closing stdout."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except LabError as problem:
        sys.stdout.write(str(problem))
        sys.exit(1)
