"""A window that slides over an input: the bytes not yet used come to the front of a buffer that is used again."""

from __future__ import annotations

import time

import numpy as np

from rdstool.capture.columns import Bytes
from rdstool.capture.files.source import Input
from rdstool.errors import CaptureError


class Window:
    """``data[:end]`` holds the bytes of the input from ``base`` on."""

    def __init__(self, source: Input, chunk_bytes: int) -> None:
        self.source = source
        self.chunk_bytes = chunk_bytes
        self.base = source.position
        self.end = 0
        self.data: Bytes = np.empty(chunk_bytes, np.uint8)

    def slide(self, used: int, wanted: int) -> bool:
        """Drop the first ``used`` bytes and read more: as much as fits, or what a followed file or pipe has.

        The buffer is of ``chunk_bytes``, or as large as the ``wanted`` bytes of one record. False: the input has ended.
        Raises CaptureError from the input, when no bytes came before that.
        """
        left = self.end - used
        size = max(self.chunk_bytes, wanted, left + 1)
        old = self.data
        if size != len(old):
            # Memory that is never written to is never taken, so a record that only claims to be large costs nothing.
            self.data = np.empty(size, np.uint8)
        self.data[:left] = old[used : self.end]
        self.base += used
        self.end = left
        return self._fill()

    def _fill(self) -> bool:
        view = self.data.data
        start = self.end
        while self.end < len(view):
            try:
                got = self.source.readinto(view[self.end :])
                if not got:
                    if self.end > start:
                        return True
                    if not self.source.wait():
                        return False
            except CaptureError:
                if self.end > start:
                    return True
                raise
            if self.end == start:
                began = time.monotonic()
            self.end += got
            if not self.source.goes_on(began):
                return True
        return self.end > start
