"""Guests that stay up between commands: each has a process of its own, reached through a socket of this user alone."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from rdstool.errors import LabError
from rdstool.lab.places import runtime_folder
from rdstool.lab.tools import own_environment

ANSWER_TIMEOUT_S = 60.0
"""For an answer that takes no work; to shut down takes up to 20 s."""

_SUFFIX = ".socket"


@dataclass(frozen=True, slots=True)
class Standing:
    """A guest that is up."""

    name: str
    kernel: str
    """Name of its kernel."""
    release: str
    accelerator: str
    address: str
    address6: str
    smaller: str
    """The smaller of the host's two addresses."""
    larger: str
    enter: list[str]
    """What comes before a command to run it on the host's side of the network."""

    def stream(
        self,
        arguments: Sequence[str],
        write: Callable[[int, bytes], None],
        *,
        environment: Mapping[str, str],
        folder: str,
        stdin: bool,
    ) -> StandingStream:
        """Start a program in the guest, like ``Guest.stream``."""
        request = {"do": "run", "argv": list(arguments), "env": dict(environment), "cwd": folder, "stdin": stdin}
        return StandingStream(Conversation.open(self.name, timeout_s=None), request, write)

    def down(self) -> None:
        """Shut it down, and wait for that."""
        with Conversation.open(self.name, timeout_s=ANSWER_TIMEOUT_S) as talk:
            talk.tell({"do": "down"})
            with suppress(LabError):
                talk.hear()  # nothing comes but the end of its process


class Conversation:
    """JSON lines over a socket, both ways."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lines = sock.makefile("rb")
        self._writing = threading.Lock()

    @classmethod
    def open(cls, name: str, timeout_s: float | None) -> Self:
        """Talk to the process of a guest. Raises ``LabError`` where there is none."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(socket_path(name)))
        except OSError as problem:
            sock.close()
            if isinstance(problem, ConnectionRefusedError):
                socket_path(name).unlink(missing_ok=True)  # its process was killed
            raise LabError(f"no guest {name!r} is up: rdstool lab up KERNEL") from problem
        return cls(sock)

    def tell(self, message: dict[str, Any]) -> None:
        """Send one object. Raises ``OSError`` where nobody listens any more."""
        with self._writing:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """The next object. Raises ``LabError`` where the other side is gone, or says that it failed."""
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise LabError(f"no answer from the guest's process within {ANSWER_TIMEOUT_S:g} s") from None
        except OSError:
            line = b""
        if not line:
            raise LabError("the guest is gone")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise LabError(told["error"])
        return told

    def close(self) -> None:
        """Hang up; what waits on the other side, or here, ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class StandingStream:
    """A program in a guest that stays up."""

    def __init__(self, talk: Conversation, request: dict[str, Any], write: Callable[[int, bytes], None]) -> None:
        self._talk = talk
        self._write = write
        talk.tell(request)

    def feed(self, data: bytes) -> None:
        """Give it more to read; nothing at all is the end."""
        self._talk.tell({"feed": base64.b64encode(data).decode("ascii") if data else None})

    def wait(self) -> int:
        """Pass on what it prints until it ends: its status. Raises ``LabError``."""
        with self._talk:
            while "part" in (told := self._talk.hear()):
                self._write(told["part"][0], base64.b64decode(told["part"][1]))
        status: int = told["status"]
        return status


def socket_path(name: str) -> Path:
    """Where the process of the guest ``name`` listens."""
    if not name.replace(".", "").replace("-", "").replace("_", "").isalnum():
        raise LabError(f"{name!r} is no name for a guest: letters, digits, dots, dashes")
    return runtime_folder() / f"{name}{_SUFFIX}"


def standing() -> list[Standing]:
    """All guests of this user that are up."""
    found = []
    for path in sorted(runtime_folder().glob(f"*{_SUFFIX}")):
        with suppress(LabError):
            found.append(find_standing(path.name.removesuffix(_SUFFIX)))
    return found


def find_standing(name: str | None) -> Standing:
    """The guest of this name, or the only one. Raises ``LabError`` where there is none, or several and no name."""
    if name is None:
        several = standing()
        if len(several) != 1:
            names = ", ".join(each.name for each in several)
            told = f"several guests are up ({names}): name one with --guest" if several else "no guest is up"
            raise LabError(told + ("" if several else ": rdstool lab up KERNEL"))
        return several[0]
    with Conversation.open(name, timeout_s=ANSWER_TIMEOUT_S) as talk:
        talk.tell({"do": "status"})
        return Standing(**talk.hear())


def bring_up(
    name: str, kernel: str, modules: Sequence[str], memory_mib: int, processors: int | None, *, rxe: bool
) -> Standing:
    """Start a process that boots a guest and keeps it; with ``rxe`` its RDS runs over Soft-RoCE.

    Raises ``LabError`` where it does not come up.
    """
    log = socket_path(name).with_suffix(".log")
    arguments = [str(os.getpid()), name, kernel, str(memory_mib), str(processors or 0), str(int(rxe)), *modules]
    with log.open("ab") as out:
        _claim(name, out)
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "rdstool.lab.background", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=out,
            start_new_session=True,
            env=own_environment(),
        )
    assert process.stdout is not None
    try:
        told = process.stdout.read().decode(errors="replace")  # it closes stdout once the guest is up
    except KeyboardInterrupt:
        process.terminate()
        raise
    if told:
        raise LabError(told.strip())
    if process.poll() is not None:
        raise LabError(f"the guest's process ended: see {log}")
    return find_standing(name)


def _claim(name: str, log: BinaryIO) -> None:
    """Keep the name for the guest whose process gets this log: the lock lasts as long as that has the file open."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_up = name in {each.name for each in standing()}
        problem = f"is up already: rdstool lab down {name}" if is_up else "comes up just now: wait, or choose a --name"
        raise LabError(f"guest {name!r} {problem}") from None
    log.truncate(0)
