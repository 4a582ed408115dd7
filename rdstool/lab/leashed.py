"""virtme-run, which ends when the process that started it does, however that ended; QEMU ends with it.

``python -m rdstool.lab.leashed LEASH ARGUMENT...``: LEASH is the number of a descriptor, the reading end of a pipe
whose other end only the owner holds. Nothing is ever written to it. When it closes, virtme-run gets SIGTERM: it
removes its temporary files and gives the terminal back as it was.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from rdstool.parentage import end_with_parent

_PID_BYTES = 16


def end_with(leash: int) -> None:
    """Let this process end when the other end of ``leash`` is closed, and what it forks when it ends itself."""
    here = os.getpid()
    forked, tell = os.pipe()
    threading.Thread(target=_watch, args=(leash, forked), name="leash", daemon=True).start()
    os.register_at_fork(after_in_child=lambda: _follow(here, tell))


def _watch(leash: int, forked: int) -> None:
    os.read(leash, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    # Python looks for signals before it waits for a process; one that comes in between would be seen after that wait.
    os.kill(int(os.read(forked, _PID_BYTES)), signal.SIGKILL)


def _follow(parent: int, tell: int) -> None:
    os.write(tell, b"%d" % os.getpid())
    end_with_parent(parent, signal.SIGKILL)


if __name__ == "__main__":
    end_with(int(sys.argv.pop(1)))
    from virtme.commands.run import main  # type: ignore[import-untyped]

    sys.exit(main())
