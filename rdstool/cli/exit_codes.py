"""Exit statuses of all commands."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status says."""

    CLEAN = 0
    PROBLEMS = 1
    UNUSABLE = 2
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.CLEAN: "done and clean",
    ExitCode.PROBLEMS: "done, and problems were found",
    ExitCode.UNUSABLE: "wrong use or unreadable input",
    ExitCode.INTERRUPTED: "interrupted",
}

HELP = "Exit status: " + ", ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + "."
"""For the end of each help text."""

WRAPPING_HELP = f"Exit status: that of what is run; {ExitCode.UNUSABLE.value} also {MEANINGS[ExitCode.UNUSABLE]}."
"""The same for commands that run another."""
