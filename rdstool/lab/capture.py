"""Frames of one device to a pcap file, with nanoseconds. What the kernel drops is an error, never a silent hole."""

from __future__ import annotations

import select
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from rdstool.errors import LabError

_MAGIC_NS = 0xA1B23C4D
_ETHERNET = 1
_SNAP_BYTES = 262_144
"""Longer than any frame that a tap device passes."""

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_QUEUE_BYTES = 256 << 20
"""What may wait for this process while it is not scheduled."""


class Capture:
    """Writes what passes a device from its making to its ``stop``; a context manager, which stops at its end."""

    def __init__(self, path: Path, sock: socket.socket, device: str) -> None:
        self.path = path
        self.frames = 0
        """Frames written so far."""
        self._socket = sock
        self._problem: OSError | None = None
        self._stop_here, self._stop_there = socket.socketpair()
        for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):  # the first needs a privilege over the whole machine
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, _QUEUE_BYTES)
                break
            except PermissionError:
                continue
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._file = path.open("wb")
        self._file.write(struct.pack("=IHHiIII", _MAGIC_NS, 2, 4, 0, 0, _SNAP_BYTES, _ETHERNET))
        sock.bind((device, _ETH_P_ALL))
        self._thread = threading.Thread(target=self._run, name=f"capture {path.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is still waiting, and close. Raises ``LabError`` where frames were lost."""
        if self._file.closed:
            return
        self._stop_here.send(b"x")
        self._thread.join()
        _, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        for each in (self._file, self._socket, self._stop_here, self._stop_there):
            each.close()
        if self._problem is not None:
            raise LabError(f"{self.path}: {self._problem.strerror}") from self._problem
        if dropped:
            raise LabError(f"{self.path}: the kernel dropped {dropped} frames of {self.frames + dropped}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            stopping = False
            while not stopping:
                ready, _, _ = select.select([self._socket, self._stop_there], [], [])
                stopping = self._stop_there in ready
                self._drain()
        except OSError as problem:
            self._problem = problem

    def _drain(self) -> None:
        while True:
            try:
                frame, control, _, _ = self._socket.recvmsg(_SNAP_BYTES, 128, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            seconds, nanoseconds = struct.unpack("=qq", control[0][2][:16])
            self._file.write(struct.pack("=IIII", seconds, nanoseconds, len(frame), len(frame)) + frame)
            self.frames += 1
