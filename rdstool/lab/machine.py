"""A running QEMU under virtme-run: it ends with this process at the latest, even where that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rdstool.lab.tools import own_environment

_END_TIMEOUT_S = 10.0
"""For virtme-run to tidy up; on a busy machine it takes a moment."""


class Machine:
    """virtme-run with these arguments, started at once. Options are those of ``subprocess.Popen``."""

    def __init__(self, arguments: Sequence[str], *, pass_fds: Sequence[int] = (), **options: Any) -> None:
        leash, held = os.pipe()
        self._held: int | None = held
        try:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "rdstool.lab.leashed", str(leash), *arguments],
                pass_fds=[leash, *pass_fds],
                env=_environment(),
                **options,
            )
        except BaseException:
            os.close(held)
            raise
        finally:
            os.close(leash)

    def kill(self) -> None:
        """End it at once where it still runs; what it needed is gone, its temporary files too."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_TIMEOUT_S)
        self.process.kill()
        self.process.wait()


def _environment() -> dict[str, str]:
    """Ours, and programs of /sbin are found, too."""
    return {**own_environment(), "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"}
