"""Imports point one way: cli -> (lab, export, validate, ...) -> protocol -> dissectors; and never in circles.

Those inside functions and those for type checkers count too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    ("rdstool.cli", "rdstool.__main__"),
    ("rdstool.stress", "rdstool.craft"),
    ("rdstool.endpoint", "rdstool.tshark"),
    ("rdstool.lab", "rdstool.export", "rdstool.validate", "rdstool.stats", "rdstool.filter", "rdstool.field_columns"),
    ("rdstool.capture", "rdstool.transport", "rdstool.afrds"),
    ("rdstool.protocol",),
    (
        "rdstool.fields",
        "rdstool.durations",
        "rdstool.errors",
        "rdstool.folders",
        "rdstool.parentage",
        "rdstool.replacing",
        "rdstool.version",
        "rdstool.words",
    ),
    ("dissectors",),
    ("dissectors.wire",),
)
"""Highest first. A package may import from its own line and from those below it."""

FACADE = "rdstool"
"""The package's own __init__ offers the interface for programs; nothing below the command line imports it."""

TERMINAL = {"rich", "typer"}
THE_WORLD = {"asyncio", "datetime", "os", "secrets", "socket", "threading", "time"}
"""Sockets, clocks, randomness, files: what parts without I/O are given by those that have it."""
SANS_IO = THE_WORLD | TERMINAL | {"numpy", "scapy"}
LIGHT = TERMINAL | {"numpy", "scapy"}

FORBIDDEN = {
    "dissectors.wire": SANS_IO | {"random"},
    "rdstool.protocol": SANS_IO | {"random"},
    "rdstool.transport.ib.roce": SANS_IO,
    "dissectors": TERMINAL | {"asyncio", "numpy", "socket", "threading"},
    "rdstool.capture": TERMINAL | {"scapy"},
    "rdstool.filter": TERMINAL | {"scapy"},
    "rdstool.validate": TERMINAL | {"scapy"},
    "rdstool.export": TERMINAL,
    "rdstool.stats": {"scapy", "typer"},
    "rdstool.transport": LIGHT,
    "rdstool.endpoint": LIGHT,
    "rdstool.afrds": LIGHT,
    "rdstool.lab": LIGHT,
    "rdstool.stress": LIGHT,
    "rdstool.craft": LIGHT,
}
"""What a package imports nowhere, not even inside a function."""

SLOW = {"numpy", "pyarrow", "rich", "scapy", "zstandard"}
"""What costs start-up time: not imported where ``--version`` and ``--help`` are answered."""

STARTUP = ("rdstool", "rdstool.__main__", "rdstool.errors", "rdstool.cli", "rdstool.cli.app", "rdstool.cli.output")

LATE = {"rdstool.stats": {"rich"}, "rdstool.export": {"pyarrow", "scapy"}, "rdstool.cli": {"scapy", "pyarrow"}}
"""What a package imports only where it is used, never when its modules load."""

RENDERING = {"rdstool.stats.sheet", "rdstool.stats.tables"}
"""Draw tables with rich, and are themselves imported only where they are drawn."""


BLOCKS = ast.stmt | ast.ExceptHandler | ast.match_case
"""What statements consist of that may hold statements."""


@dataclass(frozen=True)
class Import:
    """One name that a module imports."""

    importer: str
    target: str
    line: int
    at_load: bool
    """Runs when the module loads, not in a function and not for type checkers only."""

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the two packages with its dotted name."""
    for package in ("dissectors", "rdstool"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(name: str, source: str, *, is_package: bool) -> Iterator[Import]:
    """All imports of a module. ``from a import b`` counts as ``a`` and as ``a.b``: b may be a module."""
    tree = ast.parse(source)
    yield from _imports_in(tree.body, name, name if is_package else name.rpartition(".")[0], at_load=True)


def _imports_in(nodes: list[ast.stmt], name: str, package: str, *, at_load: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno, at_load)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield Import(name, base, node.lineno, at_load)
            for alias in node.names:
                yield Import(name, f"{base}.{alias.name}", node.lineno, at_load)
        else:
            inside = [child for child in ast.iter_child_nodes(node) if isinstance(child, BLOCKS)]
            loads = at_load and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _for_types(node)
            yield from _imports_in(inside, name, package, at_load=loads)  # type: ignore[arg-type]


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def within(module: str, package: str) -> bool:
    """Whether ``module`` is ``package`` or part of it."""
    return module == package or module.startswith(f"{package}.")


def layer_of(module: str) -> int | None:
    """Number of the layer, 0 the highest; None for modules of others, and for the facade."""
    found = [
        (len(package), number) for number, line in enumerate(LAYERS) for package in line if within(module, package)
    ]
    return max(found)[1] if found else None


def arrows(imports: Iterable[Import], ours: Container[str]) -> dict[str, set[str]]:
    """Which modules each module imports. ``from package import module`` counts as the module alone."""
    found: dict[str, set[str]] = {}
    statements: dict[tuple[str, int], list[str]] = {}
    for each in imports:
        if each.target in ours and each.target != each.importer:
            statements.setdefault((each.importer, each.line), []).append(each.target)
    for (importer, _), targets in statements.items():
        found.setdefault(importer, set()).update(
            target for target in targets if not any(other.startswith(f"{target}.") for other in targets)
        )
    return found


def circles(targets: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Sets of modules of which each reaches all others of its set; ``targets`` are what each imports."""
    reached = {start: _reached(start, targets) for start in targets}
    found = {
        tuple(sorted(other for other in reached[start] if start in reached.get(other, ())))
        for start in targets
        if start in reached[start]
    }
    return sorted(map(list, found))


def _reached(start: str, targets: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    to_do = [start]
    while to_do:
        news = set(targets.get(to_do.pop(), ())) - found
        found |= news
        to_do += news
    return found


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return [
        found
        for name, path in modules()
        for found in imports_of(name, path.read_text(), is_package=path.name == "__init__.py")
    ]


def test_every_module_has_a_place_in_the_layers() -> None:
    assert [name for name, _ in modules() if layer_of(name) is None and name != FACADE] == []


def test_imports_point_down(imports: list[Import]) -> None:
    wrong = []
    for found in imports:
        upper, lower = layer_of(found.importer), layer_of(found.target)
        if upper is not None and lower is not None and lower < upper:
            wrong.append(str(found))
    assert wrong == []


def test_only_the_command_line_uses_the_facade(imports: list[Import]) -> None:
    wrong = [
        str(found)
        for found in imports
        if found.target == FACADE and layer_of(found.importer) not in {0, None} and found.importer != FACADE
    ]
    assert wrong == []


def test_peers_do_not_import_each_other_both_ways(imports: list[Import]) -> None:
    packages = [package for line in LAYERS for package in line]
    pairs = {
        (above, below)
        for found in imports
        for above in packages
        for below in packages
        if above != below and within(found.importer, above) and within(found.target, below)
    }
    assert sorted(pair for pair in pairs if pair[::-1] in pairs and layer_of(pair[0]) == layer_of(pair[1])) == []


def test_modules_do_not_import_each_other_in_circles(imports: list[Import]) -> None:
    assert circles(arrows(imports, {name for name, _ in modules()})) == []


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_does_without(package: str, imports: list[Import]) -> None:
    wrong = [
        str(found)
        for found in imports
        if within(found.importer, package) and found.target.partition(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", LATE)
def test_what_is_slow_to_import_is_imported_where_it_is_used(package: str, imports: list[Import]) -> None:
    wrong = [
        str(found)
        for found in imports
        if found.at_load and within(found.importer, package) and found.importer not in RENDERING
        if found.target.partition(".")[0] in LATE[package] or any(within(found.target, module) for module in RENDERING)
    ]
    assert wrong == []


def test_start_up_imports_nothing_slow(imports: list[Import]) -> None:
    wrong = [
        str(found)
        for found in imports
        if found.at_load and found.importer in STARTUP and found.target.partition(".")[0] in SLOW
    ]
    assert wrong == []


def test_the_wire_and_the_engine_use_the_standard_library_only(imports: list[Import]) -> None:
    ours = {"dissectors", "rdstool"}
    wrong = [
        str(found)
        for found in imports
        if within(found.importer, "dissectors.wire") or within(found.importer, "rdstool.protocol")
        if found.target.partition(".")[0] not in ours | sys.stdlib_module_names
    ]
    assert wrong == []


def test_an_import_for_type_checkers_is_an_arrow_and_a_package_on_the_way_is_none() -> None:
    source = """
from typing import TYPE_CHECKING
from p import b
if TYPE_CHECKING:
    from p.c import C
"""
    found = imports_of("p.a", source, is_package=False)
    assert arrows(found, {"p", "p.a", "p.b", "p.c"}) == {"p.a": {"p.b", "p.c"}}


def test_circles_are_found_and_told_apart() -> None:
    two = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": ["e"], "e": ["d", "f"], "f": []}
    assert circles(two) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_deferred_relative_and_type_only_imports_are_seen() -> None:
    source = """
from ..cli import app
if TYPE_CHECKING:
    import scapy.all
try:
    import numpy
except ImportError:
    def read():
        from . import files
"""
    found = list(imports_of("rdstool.capture.tcp", source, is_package=False))
    assert [(one.target, one.at_load) for one in found] == [
        ("rdstool.cli", True),
        ("rdstool.cli.app", True),
        ("scapy.all", False),
        ("numpy", True),
        ("rdstool.capture", False),
        ("rdstool.capture.files", False),
    ]
