"""Kernels without their compression, which QEMU starts directly: to unpack one takes emulation three to five seconds.

What is here is about bzImage (Documentation/arch/x86/boot.rst) and the note by which an ELF file says where it is to be
entered (``XEN_ELFNOTE_PHYS32_ENTRY``, arch/x86/platform/pvh/head.S).
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard

from rdstool.lab.kernels import Kernel
from rdstool.replacing import put

_SECTOR_BYTES = 512
_SETUP_SECTORS = 0x1F1
_MAGIC = 0x202
_PAYLOAD = 0x248
"""Place of two numbers: where the payload begins, behind the sectors of the setup, and its length."""

_ENTRY_NOTES = tuple(struct.pack("<III4s", 4, size, 18, b"Xen") for size in (4, 8))

_UNPACKERS: dict[bytes, Callable[[], Any]] = {
    b"\x28\xb5\x2f\xfd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    b"\xfd7zXZ": lzma.LZMADecompressor,
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
}
"""By what the payload begins with; behind what they unpack, there may be more."""


def uncompressed(kernel: Kernel) -> Path | None:
    """The kernel as an ELF file beside its record, unpacked anew with its image.

    None where QEMU cannot start it, or there is no room for it.
    """
    image, made = kernel.image, kernel.folder / "vmlinux"
    changed = image.stat().st_mtime_ns
    with suppress(FileNotFoundError):
        if made.stat().st_mtime_ns == changed:
            return made if made.stat().st_size else None
    content = unpack(image.read_bytes())
    if not any(note in content for note in _ENTRY_NOTES):
        content = b""
    try:
        put(made, content, modified_ns=changed)
    except OSError:
        return None
    return made if content else None


def unpack(image: bytes) -> bytes:
    """What a bzImage has compressed; nothing at all where it is no bzImage, or compressed in a way not known here."""
    if image[_MAGIC : _MAGIC + 4] != b"HdrS":
        return b""
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = (image[_SETUP_SECTORS] + 1) * _SECTOR_BYTES + offset
    payload = image[start : start + length]
    for magic, make in _UNPACKERS.items():
        if payload.startswith(magic):
            unpacker = make()
            with suppress(lzma.LZMAError, zlib.error, zstandard.ZstdError):
                content: bytes = unpacker.decompress(payload)
                return content if unpacker.eof else b""
    return b""
