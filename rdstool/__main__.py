"""Entry point of the command ``rdstool``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        if sys.argv[1:] == ["--version"]:
            # Asked for by scripts, and often: answered before anything is imported.
            from rdstool.version import __version__  # noqa: PLC0415

            sys.stdout.write(f"rdstool {__version__}\n")
            return
        # NumPy would start a thread for each processor, for linear algebra that nothing here does.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from rdstool.cli.app import run  # noqa: PLC0415

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
