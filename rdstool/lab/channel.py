"""The host's end of the talk with a guest's agent: calls from any thread, answers in any order."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import Any

from rdstool.errors import LabError

_CHUNK_BYTES = 1 << 18


class GuestError(LabError):
    """A call that failed in the guest. ``errno`` is a name (``"ENOBUFS"``) where an ``OSError`` was why, else None."""

    def __init__(self, message: str, errno: str | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class Channel:
    """Calls to the agent over a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._closed: str | None = None
        self.ready: Future[Any] = Future()
        """Done when the agent listens."""
        self._waiting: dict[int, tuple[Future[Any], Callable[[Any], None] | None]] = {0: (self.ready, None)}
        self._thread = threading.Thread(target=self._read, name="guest channel", daemon=True)
        self._thread.start()

    def start(self, what: str, part: Callable[[Any], None] | None = None, **arguments: Any) -> Future[Any]:
        """Ask for ``what``; its answer comes to the future, parts of it to ``part`` before.

        What ``part`` raises ends the call, and comes to the future.
        """
        future: Future[Any] = Future()
        number = next(self._numbers)
        line = json.dumps({"id": number, "do": what, "with": arguments}).encode() + b"\n"
        with self._lock:
            if self._closed is not None:
                raise GuestError(self._closed)
            self._waiting[number] = future, part
            try:
                self._socket.sendall(line)
            except OSError as problem:
                raise GuestError(f"the guest is gone ({problem.strerror})") from problem
        return future

    def close(self, why: str) -> None:
        """Hang up. Calls that wait fail with ``GuestError``: ``why``."""
        with self._lock:
            self._closed = self._closed or why
            waiting, self._waiting = self._waiting, {}
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._socket.close()
        for future, _ in waiting.values():
            future.set_exception(GuestError(self._closed))

    def _read(self) -> None:
        left = bytearray()
        try:
            while chunk := self._socket.recv(_CHUNK_BYTES):
                start = len(left)
                left += chunk
                while (end := left.find(b"\n", start)) >= 0:
                    self._take(json.loads(left[:end]))
                    del left[: end + 1]
                    start = 0
        except (OSError, ValueError):
            pass  # what matters is that nobody will answer any more
        self.close("the guest is gone")

    def _take(self, answer: dict[str, Any]) -> None:
        with self._lock:
            future, part = self._waiting.get(answer["id"], (None, None))
            if "part" not in answer:
                self._waiting.pop(answer["id"], None)
        if future is None:
            return
        if "part" in answer:
            if part is not None:
                try:
                    part(answer["part"])
                except Exception as problem:  # of that call, whatever it is
                    with self._lock:
                        self._waiting.pop(answer["id"], None)
                    future.set_exception(problem)
        elif "error" in answer:
            told = answer["error"]
            future.set_exception(GuestError(told["message"], told["errno"]))
        else:
            future.set_result(answer["result"])
