"""Capture files as streams of bytes: compressed or not, growing or not, standard input among them."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from rdstool.capture.files.compression import (
    MAGIC_BYTES,
    DecompressionError,
    Expander,
    TooLargeError,
    detect_compression,
)
from rdstool.errors import CaptureError

STANDARD_INPUT = "-"
FOLLOW_POLL_SECONDS = 0.2
"""How long to wait before looking again whether a followed file has grown."""
GATHER_S = 0.02
"""How long what comes through a followed pipe is gathered: a pipe gives 64 KiB at a time, and with each piece by itself
decoding takes four times as long."""
COMPRESSED_READ_BYTES = 64 << 10

Wait = Callable[[], bool]
"""Called when a followed file has nothing new: waits a while; False ends the reading."""


def wait_for_growth() -> bool:
    """Let some time pass; go on for ever."""
    time.sleep(FOLLOW_POLL_SECONDS)
    return True


class Input:
    """One open capture file. Positions in messages are those of the decompressed bytes."""

    def __init__(self, name: str, file: BinaryIO, path: Path | None, *, follow: bool, wait: Wait) -> None:
        self.name = name
        self.follow = follow
        self.consumed = 0
        """Bytes taken from the file as it lies on disk."""
        self.position = 0
        """Bytes handed out, decompressed."""
        self.compression: str | None = None
        """``gzip``, ``xz``, ``zstd`` or None; known once something was read."""
        self._file = file
        self._path = path
        self._wait = wait
        self._replaced = False
        self._begun = False
        self._expander: Expander | None = None
        self._waiting = memoryview(b"")
        # A pipe's buffered reader would wait until it can fill the whole buffer.
        name_of_read = "readinto1" if hasattr(file, "readinto1") else "readinto"
        self._read_raw: Callable[[memoryview], int | None] = getattr(file, name_of_read)
        self._status = self._stat()
        self.size = self._status.st_size if self._status and stat.S_ISREG(self._status.st_mode) else None
        """Bytes on disk when it was opened; None where that cannot be known."""
        self._live = follow and self._status is not None and self.size is None
        """A pipe that is followed."""

    def readinto(self, target: memoryview) -> int:
        """Fill ``target`` from its start and return the number of bytes; 0: there is nothing (now).

        Raises CaptureError where the file cannot be read or its compression is broken, after all that came before.
        """
        if not self._begun and not self._begin():
            return 0
        if not self._waiting:
            if self._expander is None:
                got = self._read(target)
                self.position += got
                return got
            if not self._decompress(self._expander):
                return 0
        got = min(len(target), len(self._waiting))
        target[:got] = self._waiting[:got]
        self._waiting = self._waiting[got:]
        self.position += got
        return got

    def goes_on(self, began: float) -> bool:
        """Whether to read on after what came since ``began``, on the monotonic clock.

        Of a pipe that is followed that is what comes within ``GATHER_S``; its writer may have no more for long.
        """
        if not self._live or self._waiting:
            return True
        left_s = began + GATHER_S - time.monotonic()
        arrivals = select.poll()
        arrivals.register(self._file, select.POLLIN)
        return left_s > 0 and bool(arrivals.poll(1000 * left_s))

    def wait(self) -> bool:
        """After ``readinto`` gave 0: whether to try again.

        Raises CaptureError if a followed file was replaced or became shorter.
        """
        if not self.follow or self._status is None:
            return False
        if self._replaced:
            raise CaptureError(f"{self.name}: removed or replaced; start again to follow anew", self.position)
        now = self._stat()
        if now is not None and stat.S_ISREG(now.st_mode) and now.st_size < self.consumed:
            raise CaptureError(
                f"{self.name}: the file became shorter; start again to follow it anew",
                self.position,
            )
        if not stat.S_ISREG(self._status.st_mode):
            return False
        # What was written before the file was replaced still comes with one more read.
        self._replaced = self._was_replaced()
        return self._replaced or self._wait()

    def seek(self, position: int) -> None:
        """Go to a byte of an uncompressed file. Raises CaptureError if the file is compressed or cannot seek."""
        if (not self._begun and not self._begin()) or self.compression is not None or self.size is None:
            raise CaptureError(f"{self.name}: only an uncompressed file can be read from its middle")
        self._file.seek(position)
        self._waiting = memoryview(b"")
        self.consumed = self.position = position

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self._path is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> bool:
        """Read enough to tell the compression; False if a followed file does not have that much yet."""
        head = bytes(self._waiting)
        while len(head) < MAGIC_BYTES:
            more = self._take(MAGIC_BYTES - len(head))
            if not more:
                break
            head += more
        self._waiting = memoryview(head)
        if len(head) < MAGIC_BYTES and self.follow:
            # Kept until more comes; when no more comes, there is nothing in so few bytes.
            return False
        if not head:
            raise CaptureError(f"{self.name}: the file is empty", 0)
        self._begun = True
        compression = detect_compression(head)
        if compression is not None:
            self.compression = compression.name
            self._expander = Expander(compression)
            self._expander.put(head)
            self._waiting = memoryview(b"")
        return True

    def _read(self, target: memoryview) -> int:
        try:
            got = self._read_raw(target) or 0
        except OSError as error:
            raise CaptureError(f"{self.name}: cannot be read: {error.strerror}", self.position) from error
        self.consumed += got
        return got

    def _take(self, size: int) -> bytes:
        block = bytearray(size)
        return bytes(block[: self._read(memoryview(block))])

    def _decompress(self, expander: Expander) -> bool:
        """Put more decompressed bytes into ``_waiting``; False if the file has nothing more (now)."""
        try:
            output = expander.take()
            while not output:
                block = self._take(COMPRESSED_READ_BYTES)
                if not block:
                    if expander.inside and not self.follow:
                        raise CaptureError(
                            f"{self.name}: the {self.compression} data are cut off at byte {self.consumed}",
                            self.position,
                        )
                    return False
                expander.put(block)
                output = expander.take()
        except TooLargeError as error:
            raise CaptureError(f"{self.name}: the {self.compression} data {error}", self.position) from error
        except DecompressionError as error:
            raise CaptureError(
                f"{self.name}: broken {self.compression} data before byte {self.consumed}: {error}", self.position
            ) from error
        self._waiting = memoryview(output)
        return True

    def _stat(self) -> os.stat_result | None:
        try:
            return os.fstat(self._file.fileno())
        except (OSError, io.UnsupportedOperation):
            return None

    def _was_replaced(self) -> bool:
        if self._path is None or self._status is None:
            return False
        try:
            there = self._path.stat()
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (self._status.st_dev, self._status.st_ino)


def open_input(path: str, *, follow: bool = False, wait: Wait = wait_for_growth) -> Input:
    """Open a capture file, or standard input for ``-``; gzip, xz and zstd are told by their first bytes.

    With ``follow``, the end of the file is not the end: ``wait`` is called until it returns False.
    Raises CaptureError for what is not there, must not be read, is a directory, or is empty.
    """
    if path == STANDARD_INPUT:
        if sys.stdin is None or sys.stdin.closed:
            raise CaptureError("standard input is closed")
        if sys.stdin.isatty():
            raise CaptureError("standard input is a terminal: name a file, or send a capture through a pipe")
        return Input("standard input", cast(BinaryIO, sys.stdin.buffer), None, follow=follow, wait=wait)
    try:
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - Input closes it
    except IsADirectoryError:
        raise CaptureError(f"{path}: is a directory: name a capture file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CaptureError(f"{path}: cannot be opened: {reason}") from error
    return Input(path, cast(BinaryIO, file), Path(path), follow=follow, wait=wait)
