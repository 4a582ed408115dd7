"""Print the oldest version of each dependency that pyproject.toml allows, as requirements for pip."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

NOT_RUN_BY_TESTS = ("mypy", "ruff", "pyarrow-stubs")


def main() -> None:
    """Turn every ``name>=version`` into ``name==version``."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["parquet"], *extras["dev"]}
    pinned = (requirement.replace(">=", "==") for requirement in wanted if not requirement.startswith(NOT_RUN_BY_TESTS))
    sys.stdout.write(" ".join(sorted(pinned)) + "\n")


if __name__ == "__main__":
    main()
