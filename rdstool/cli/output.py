"""Where a command's words go: results to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from types import TracebackType
from typing import Any, TextIO

PROGRAM = "rdstool"
STANDARD_OUTPUT = "-"
"""Instead of a file's name."""
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(0x80, 0xA0))}


def one_line(text: str) -> str:
    """``text`` on a single line that cannot steer a terminal: control characters are escaped."""
    return " ".join(text.splitlines()).translate(_CONTROL)


def error(message: str) -> None:
    """Tell on stderr what is wrong, in one line."""
    print(f"{PROGRAM}: error: {one_line(message)}", file=sys.stderr, flush=True)  # noqa: T201


def warn(message: str) -> None:
    """Tell on stderr what deserves attention but stops nothing, in one line."""
    print(f"{PROGRAM}: warning: {one_line(message)}", file=sys.stderr, flush=True)  # noqa: T201


def note(message: str) -> None:
    """Write a line to stderr as it is: summaries, counts."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def colour_wanted(stream: TextIO) -> bool:
    """True where ``stream`` is a terminal that shows colour and the user did not forbid it (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def json_line(value: Any) -> str:
    """One line of JSON with its newline."""
    return _ENCODER.encode(value) + "\n"


_ENCODER = json.JSONEncoder(ensure_ascii=False)
"""One encoder for all lines: ``json.dumps`` makes another each time."""


class Results:
    """Text to stdout in large pieces; on a terminal, and where asked for, each piece at once.

    Raises ``BrokenPipeError`` where the reader went away; :func:`rdstool.cli.app.run` ends quietly then.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.colour = colour_wanted(sys.stdout)
        self._at_once = at_once or sys.stdout.isatty()
        encoding = (sys.stdout.encoding or "utf-8").lower().replace("_", "-")
        self._encoding = "utf-8" if encoding in {"utf8", "utf-8"} else encoding

    @property
    def unicode(self) -> bool:
        """True where stdout takes any character."""
        return self._encoding == "utf-8"

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None where the output goes elsewhere."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def write(self, text: str) -> None:
        """Write ``text``, newlines included."""
        sys.stdout.buffer.write(text.encode(self._encoding, "backslashreplace"))
        if self._at_once:
            sys.stdout.buffer.flush()

    def write_bytes(self, data: bytes) -> None:
        """Write bytes as they are."""
        sys.stdout.buffer.write(data)
        if self._at_once:
            sys.stdout.buffer.flush()

    def __enter__(self) -> Results:
        sys.stdout.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout.buffer.flush()


def drop_stdout() -> None:
    """After the reader of stdout went away: let what is still buffered vanish without another error."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def settle_stdout() -> None:
    """After an error that may have been stdout's: let what it does not take vanish, or Python complains at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_stdout()
