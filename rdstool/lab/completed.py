"""How programs that ran in the guest ended."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rdstool.lab.channel import GuestError


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ran in the guest."""

    status: int
    """Exit status; negative: the signal that ended it."""
    output: bytes
    """What it wrote to stdout."""
    errors: bytes
    """What it wrote to stderr."""

    @property
    def stdout(self) -> str:
        """``output`` as text."""
        return self.output.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """``errors`` as text."""
        return self.errors.decode(errors="replace")


def completed(arguments: Sequence[str], told: dict[str, Any], *, check: bool, timeout_s: float) -> Completed:
    """What the agent told of a program. Raises ``GuestError`` where it took too long, or with ``check`` failed."""
    what = shlex.join(arguments)
    if told["status"] is None:
        raise GuestError(f"{what}: took longer than {timeout_s:g} s in the guest")
    done = Completed(told["status"], base64.b64decode(told["stdout"]), base64.b64decode(told["stderr"]))
    if check and done.status:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise GuestError(f"{what}: status {done.status} in the guest: {' / '.join(words)}")
    return done
