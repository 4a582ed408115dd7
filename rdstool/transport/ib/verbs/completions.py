"""The completion queue of a device's provider, and the file that tells when to look at it."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyverbs.cq import CQ, CompChannel
from pyverbs.pyverbs_error import PyverbsError, PyverbsRDMAError

from rdstool.errors import TransportError

POLL_BATCH = 256
"""Completions that are taken at a time."""
_DESCRIPTORS = Path("/proc/self/fd")
_EVENT_FILE = "anon_inode:[infinibandevent]"


class Completions:
    """One completion queue for all connections."""

    def __init__(self, context: Any, size: int) -> None:
        before = _event_files()
        self._channel = CompChannel(context)
        (self._file,) = _event_files() - before
        os.set_blocking(self._file, False)
        self._notices = select.poll()
        self._notices.register(self._file, select.POLLIN)
        self.queue: Any = CQ(context, size, None, self._channel, 0)
        self.queue.req_notify()

    def fileno(self) -> int:
        """Readable when there are completions."""
        return self._file

    def make_room(self, size: int) -> None:
        """Have it hold ``size`` completions. Raises ``TransportError`` where the device has no room for them."""
        try:
            if size > self.queue.cqe:
                self.queue.resize(size)
        except PyverbsError as problem:
            raise TransportError(f"no room for {size} completions: {problem}") from None

    def take(self) -> Iterator[Any]:
        """All there are. The next notice is asked for first, so that none is missed."""
        told = 0
        while self._notices.poll(0) and self._told():
            told += 1
        if told:
            self.queue.ack_events(told)
            self.queue.req_notify()
        count = POLL_BATCH
        while count == POLL_BATCH:
            count, found = self.queue.poll(POLL_BATCH)
            yield from found

    def _told(self) -> bool:
        try:
            self._channel.get_cq_event(self.queue)
        except PyverbsRDMAError as problem:
            if problem.error_code in {errno.EAGAIN, errno.EINTR}:
                return False
            raise TransportError(f"no notice of completions: {problem}") from None
        return True

    def close(self) -> None:
        """After all queue pairs."""
        self.queue.close()
        self._channel.close()


def _event_files() -> set[int]:
    """Open files that tell of events of devices. pyverbs keeps to itself which is whose."""
    found = set()
    for entry in _DESCRIPTORS.iterdir():
        try:
            if str(entry.readlink()) == _EVENT_FILE:
                found.add(int(entry.name))
        except FileNotFoundError:
            continue
    return found
