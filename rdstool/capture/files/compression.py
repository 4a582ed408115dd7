"""Decompression of gzip, xz and zstd as a stream, with a bound on what a step can produce."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

XZ_MEMORY_BYTES = 128 << 20
"""What the dictionary of an xz file may take; ``xz -9`` needs 65 MiB."""
ZSTD_WINDOW_BYTES = 128 << 20
"""The largest window of a zstd file; the ``zstd`` command has the same limit (``--long=27``)."""
STEP_BYTES = 1 << 20
"""About how much one step of decompression brings."""
MAGIC_BYTES = 6
"""Length of the longest magic."""


class _Member(Protocol):
    """One member (gzip), stream (xz) or frame (zstd)."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Compression:
    """A way of compressing files, told by the first bytes."""

    name: str
    magics: tuple[bytes, ...]
    slice_bytes: int
    """Decompressed at once: this times the highest ratio is the most that memory must hold for it."""
    start: Callable[[], _Member]
    """Make ready for the next member."""


def _start_zstd() -> _Member:
    import zstandard  # noqa: PLC0415 - few files need it

    member: Any = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
    return member  # type: ignore[no-any-return]


_SKIPPABLE_FRAMES = tuple(bytes((kind, 0x2A, 0x4D, 0x18)) for kind in range(0x50, 0x60))
COMPRESSIONS = (
    # Deflate expands by 1032 at most.
    Compression("gzip", (b"\x1f\x8b",), 4 << 10, lambda: zlib.decompressobj(wbits=31)),
    # LZMA codes a match of 273 bytes in a third of a bit at best, a factor of about 7000.
    Compression("xz", (b"\xfd7zXZ\x00",), 1 << 10, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY_BYTES)),
    # Four bytes can stand for a block of 128 KiB.
    Compression("zstd", (b"\x28\xb5\x2f\xfd", *_SKIPPABLE_FRAMES), 1 << 9, _start_zstd),
)


def detect_compression(head: bytes) -> Compression | None:
    """Tell how a file is compressed from its first :data:`MAGIC_BYTES`; None if it is not."""
    return next((kind for kind in COMPRESSIONS if head.startswith(kind.magics)), None)


class DecompressionError(Exception):
    """The compressed data are broken."""


class TooLargeError(DecompressionError):
    """The compressed data need more memory than :data:`XZ_MEMORY_BYTES` or :data:`ZSTD_WINDOW_BYTES`."""


_TOO_LARGE = ("requires too much memory", "Memory usage limit")
"""How zstd and xz say so."""


class Expander:
    """Decompresses a file that is put in block by block; its members may follow each other."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self._member: _Member | None = None
        self._waiting = b""
        self._used = 0
        self._failure: Exception | None = None

    @property
    def inside(self) -> bool:
        """Whether a member has begun and not ended, so that a file that ends here is cut off."""
        return self._member is not None and not self._member.eof

    def put(self, block: bytes) -> None:
        """Give the next bytes of the compressed file; only after ``take`` returned nothing."""
        self._waiting = block
        self._used = 0

    def take(self) -> bytes:
        """Return the next decompressed bytes; none: more must be put in.

        Raises DecompressionError, after everything that came before the broken place was returned.
        """
        output: list[bytes] = []
        produced = 0
        while self._used < len(self._waiting) and produced < STEP_BYTES and self._failure is None:
            if not self.inside and not self._next_member():
                break
            assert self._member is not None
            piece = self._waiting[self._used : self._used + self._compression.slice_bytes]
            try:
                output.append(self._member.decompress(piece))
            except Exception as error:  # zlib.error, LZMAError, ZstdError: no common base
                self._failure = error
                break
            self._used += len(piece) - len(self._member.unused_data)
            produced += len(output[-1])
        if self._failure is not None and not produced:
            reason = str(self._failure)
            if any(words in reason for words in _TOO_LARGE):
                raise TooLargeError("need too much memory: decompress the file first") from self._failure
            raise DecompressionError(reason) from self._failure
        return b"".join(output)

    def _next_member(self) -> bool:
        """Go to the next member; False if nothing but padding is left (zero bytes, as tapes and xz have it)."""
        rest = self._waiting[self._used :].lstrip(b"\0")
        self._used = len(self._waiting) - len(rest)
        if not rest:
            return False
        self._member = self._compression.start()
        return True
