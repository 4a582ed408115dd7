"""The scenarios that come with rdstool, and those in files."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from rdstool.craft.reading import read
from rdstool.craft.scenario import Scenario
from rdstool.errors import UsageError

SUFFIX = ".toml"
_FOLDER = files("rdstool.craft") / "scenarios"


def names() -> list[str]:
    """Names of the scenarios that come with rdstool, in alphabetical order."""
    return sorted(each.name.removesuffix(SUFFIX) for each in _FOLDER.iterdir() if each.name.endswith(SUFFIX))


def text_of(name: str) -> tuple[str, str]:
    """The file's name for messages, and its text: of a scenario that comes with rdstool, or of a file of the user.

    Raises ``UsageError``.
    """
    if name.endswith(SUFFIX) or "/" in name:
        try:
            return name, Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{name}: not a text in UTF-8") from None
        except OSError as problem:
            raise UsageError(f"{name}: cannot be read: {problem.strerror}") from None
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise UsageError(
            f"there is no scenario {name!r}{f', did you mean {near[0]}?' if near else ''} "
            f"(rdstool craft --list shows all; a file's name ends in {SUFFIX})"
        )
    return f"{name}{SUFFIX}", (_FOLDER / f"{name}{SUFFIX}").read_text(encoding="utf-8")


def scenario(name: str) -> Scenario:
    """One scenario, by name or file. Raises ``UsageError``."""
    return read(*text_of(name))
