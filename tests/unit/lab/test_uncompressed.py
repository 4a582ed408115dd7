"""Kernels are unpacked before QEMU starts them, where it can start what is in them."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from rdstool.lab.kernels import Kernel
from rdstool.lab.uncompressed import uncompressed

RELEASE = "6.1.0"
NOTE = struct.pack("<III4sQ", 4, 8, 18, b"Xen", 0x1000000)
ELF = b"\x7fELF" + bytes(100) + NOTE + bytes(100)
SETUP_SECTORS, OFFSET = 3, 40


def bzimage(payload: bytes) -> bytes:
    """Setup sectors with a header, then something else, then the payload."""
    image = bytearray(512 * (SETUP_SECTORS + 1) + OFFSET)
    image[0x1F1] = SETUP_SECTORS
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, OFFSET, len(payload))
    return bytes(image) + payload + b"what follows"


def kernel(folder: Path, image: bytes) -> Kernel:
    (folder / "boot").mkdir(exist_ok=True)
    (folder / "boot" / f"vmlinuz-{RELEASE}").write_bytes(image)
    return Kernel("6.1", RELEASE, "made by hand", folder)


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, zstandard.compress])
def test_a_compressed_kernel_is_unpacked(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    # Behind what is compressed stands its length.
    made = uncompressed(kernel(tmp_path, bzimage(compress(ELF) + struct.pack("<I", len(ELF)))))
    assert made is not None
    assert made.read_bytes() == ELF


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"no kernel at all" * 100,
        bzimage(gzip.compress(ELF.replace(b"Xen", b"not"))),
        bzimage(gzip.compress(ELF)[:30]),
        bzimage(b"compressed otherwise"),
    ],
)
def test_what_cannot_be_started_unpacked_is_left_as_it_is(tmp_path: Path, image: bytes) -> None:
    found = kernel(tmp_path, image)
    assert uncompressed(found) is None
    assert uncompressed(found) is None


def test_a_kernel_that_was_built_anew_is_unpacked_anew(tmp_path: Path) -> None:
    before = uncompressed(kernel(tmp_path, bzimage(gzip.compress(ELF))))
    changed = kernel(tmp_path, bzimage(gzip.compress(ELF + b"new")))
    os.utime(changed.image, (1, 1))
    made = uncompressed(changed)
    assert made == before
    assert made is not None
    assert made.read_bytes() == ELF + b"new"


def test_where_it_cannot_be_kept_the_kernel_is_left_as_it_is(tmp_path: Path) -> None:
    found = kernel(tmp_path, bzimage(gzip.compress(ELF)))
    os.utime(found.image, (1, 1))
    (tmp_path / "vmlinux").mkdir()
    assert uncompressed(found) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boot", "vmlinux"]
