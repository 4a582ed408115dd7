"""Entry point of the command ``rdstool``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line and exit with its status."""
    _open_standard_streams()
    try:
        if sys.argv[1:] == ["--version"]:
            # Asked for by scripts, and often: answered before anything is imported.
            from rdstool.version import __version__  # noqa: PLC0415

            with suppress(OSError):  # which is told in the usual way below
                print(f"rdstool {__version__}", flush=True)  # noqa: T201
                return
        # NumPy would start a thread for each processor, for linear algebra that nothing here does.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from rdstool.cli import cycles  # noqa: PLC0415

        cycles.search_seldom()
        from rdstool.cli.app import run  # noqa: PLC0415

        code = run(sys.argv[1:])
        cycles.search_no_more()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _open_standard_streams() -> None:
    """Where one of the three was closed, nobody reads or writes there; nor is a file or socket to get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - as long as the process


if __name__ == "__main__":
    main()
