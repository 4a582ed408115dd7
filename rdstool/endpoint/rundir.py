"""Where the running nodes of a user are found: a directory that only this user can enter, with a socket for each."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rdstool.folders import is_private

NAME = "rdstool"
SUFFIX = ".sock"
BACKLOG = 16
UID_MAP = Path("/proc/self/uid_map")
"""Which users of the namespace are which outside of it, as user_namespaces(7) describes."""
NAME_TRIES = 1000
"""Sockets of one process that are looked at for a free name."""


def places() -> list[Path]:
    """The directories that come into question, the best first: that of the session, and one for all temporary files.

    A node that was started without a session, as from cron, has only the second.
    """
    temporary = Path(tempfile.gettempdir()) / f"{NAME}-{_user()}"
    session = os.environ.get("XDG_RUNTIME_DIR")
    return [Path(session) / NAME, temporary] if session else [temporary]


def _user() -> int:
    """The user of this process outside of its namespace: in one that ``rdstool lab`` makes, every user is 0."""
    uid = os.getuid()
    try:
        ranges = [map(int, line.split()) for line in UID_MAP.read_text().splitlines()]
    except OSError:
        return uid  # not Linux, or no /proc
    for first, first_outside, size in ranges:
        if first <= uid < first + size:
            return first_outside + uid - first
    return uid


def listen() -> tuple[socket.socket, Path]:
    """A socket of this process in the first place that takes it. Raises ``OSError`` where none does."""
    problem: OSError | None = None
    for place in places():
        try:
            place.mkdir(mode=0o700, exist_ok=True)
            if not is_private(place):
                raise PermissionError(errno.EPERM, "others may enter it, or it belongs to another user", str(place))
            return _listen_in(place)
        except OSError as trouble:
            problem = problem or trouble
    assert problem is not None
    raise problem


def _listen_in(place: Path) -> tuple[socket.socket, Path]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        path = _bind(sock, place)
        # Before it listens nobody can connect, so there is no moment at which the usual rights hold.
        path.chmod(0o600)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock, path


def _bind(sock: socket.socket, place: Path) -> Path:
    for number in range(NAME_TRIES):
        path = place / f"{os.getpid()}-{number}{SUFFIX}"
        try:
            sock.bind(str(path))
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE:
                raise
        else:
            return path
    raise OSError(errno.EADDRINUSE, "no free name for a socket", str(place))


def sockets() -> Iterator[tuple[Path, socket.socket]]:
    """A connection to each node that lives, in the order in which they were started.

    What a node left behind that ended without tidying up is removed; what is of no use is passed over.
    """
    for place in places():
        if not is_private(place):
            continue
        for path in sorted(place.glob(f"*{SUFFIX}"), key=_age):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.connect(str(path))
            except ConnectionRefusedError:
                sock.close()
                _remove_stale(path)
            except OSError:
                sock.close()
            else:
                yield path, sock


def _age(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _remove_stale(path: Path) -> None:
    """Nobody listens. A node that is only about to has a process that lives, and is left alone."""
    process = path.stem.partition("-")[0]
    if not process.isdecimal() or not _lives(int(process)):
        path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
