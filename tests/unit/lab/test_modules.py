"""Modules that guests load lie in the cache without their compression."""

from __future__ import annotations

import lzma
from pathlib import Path

from rdstool.lab.modules import unpack_modules


def test_modules_that_guests_load_are_unpacked_and_others_left_as_they_are(tmp_path: Path) -> None:
    content = b"\x7fELF" + bytes(1000)
    names = {"net/rds/rds.ko.xz": "net/rds/rds.ko", "crypto/crc32-cryptoapi.ko.xz": "crypto/crc32-cryptoapi.ko"}
    others = ["net/rds/rds_other.ko.xz", "net/sctp/sctp.ko.xz"]
    for name in (*names, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(lzma.compress(content))
    unpack_modules(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.ko*")}
    assert left == {*names.values(), *others}
    assert all((tmp_path / name).read_bytes() == content for name in names.values())
