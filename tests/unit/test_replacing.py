"""Files that are replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdstool.replacing import put


def test_a_file_is_replaced_with_its_mode_and_time(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(b"old")
    put(path, b"new", 0o755, modified_ns=1_000_000_000)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o755)
    assert path.stat().st_mtime_ns == 1_000_000_000


def test_who_has_opened_the_old_file_reads_on_in_it(tmp_path: Path) -> None:
    path = tmp_path / "plugin"
    path.write_bytes(b"old")
    with path.open("rb") as opened:
        put(path, b"new")
        assert opened.read() == b"old"


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "plugin"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        put(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
