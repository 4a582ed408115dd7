"""Entry point of the command ``rdstool``."""

from __future__ import annotations

import os
import signal
import sys
from _thread import interrupt_main, start_new_thread

_INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit with its status."""
    # While Python itself would answer Ctrl-C by a traceback, it ends this process at once.
    answered = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if answered:
        signal.signal(signal.SIGINT, _leave)
    _open_standard_streams()
    try:
        if sys.argv[1:] == ["--version"]:
            # Asked for by scripts, and often: answered before anything is imported.
            from rdstool.version import __version__  # noqa: PLC0415

            try:
                print(f"rdstool {__version__}", flush=True)  # noqa: T201
            except OSError:
                pass  # which is told in the usual way below
            else:
                return
        # NumPy would start a thread for each processor, for linear algebra that nothing here does.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from rdstool.cli import cycles  # noqa: PLC0415

        cycles.search_seldom()
        from rdstool.cli.app import run  # noqa: PLC0415

        if answered:
            sys.unraisablehook = _never_lost
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run(sys.argv[1:])
        if answered:
            signal.signal(signal.SIGINT, _leave)
        cycles.search_no_more()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    sys.exit(code)


def _leave(_number: int, _frame: object) -> None:
    os._exit(_INTERRUPTED)


def _never_lost(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops Ctrl-C where a callback runs, as at the end of an import: press it again, a moment later."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        start_new_thread(interrupt_main, ())
    else:
        sys.__unraisablehook__(dropped)


def _open_standard_streams() -> None:
    """Where one of the three was closed, nobody reads or writes there; nor is a file or socket to get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - as long as the process


if __name__ == "__main__":
    main()
